"""One pass over a history gives what each of its prefixes alone would give."""

import pytest
import torch
import torch.nn.functional as F
from small_catalogs import (
    DEFAULT,
    FORMS,
    HISTORIES,
    LENGTHS,
    LEVEL,
    LIGHT,
    NUM_ITEMS,
    ONE_PASS,
    RAGGED,
    TREE,
    edges_of,
    random_model,
    random_tables,
    tables_for,
)

from bbqrec.errors import ConfigError, FeatureError
from bbqrec.ranking import Histories
from bbqrec.recommender import (
    OnePassRecommender,
    RecommenderConfig,
    SimilarityConfig,
    build_recommender,
    dense_logits,
)
from bbqrec.recommender.dense_score import Evidence
from bbqrec.recommender.transformer import Dropout

TARGETS = torch.where(HISTORIES >= 0, (HISTORIES * 7 + 3) % NUM_ITEMS, -1)


@pytest.mark.parametrize("config", [ONE_PASS, LEVEL, LIGHT], ids=["vocabulary", "level", "light"])
def test_every_position_answers_as_its_prefix_alone(config: RecommenderConfig) -> None:
    model = random_model(config)
    start_targets = torch.tensor([4, -1, 11, 12])

    output = model(HISTORIES, TARGETS, start_targets=start_targets)

    wanted = torch.cat([start_targets[:, None], TARGETS], 1)
    rows, lengths = (wanted >= 0).nonzero(as_tuple=True)
    evidence = model.evidence(RAGGED, rows, lengths)
    table, biases = model.output_table(), model.dense_biases()
    dense = dense_logits(output.user_states, table, biases, evidence).log_softmax(-1)
    labels = model.code_targets(output.targets)
    scores = output.code_logits.log_softmax(-1).gather(-1, labels[:, :, None]).sum((1, 2))
    for entry, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
        prefix = HISTORIES[row : row + 1, : max(length, 1)]
        prefix = prefix if length else torch.full_like(prefix, -1)
        target = wanted[row, length]
        assert output.targets[entry] == target
        alone = model.score_items(prefix, torch.tensor([length]), target.view(1, 1))
        torch.testing.assert_close(scores[entry], alone[0, 0], atol=1e-5, rtol=1e-5)
        alone = model.dense_scores(Histories(HISTORIES[row, :length], torch.tensor([0, length])))[0]
        torch.testing.assert_close(dense[entry], alone, atol=1e-5, rtol=1e-5)


def test_the_dense_score_is_the_cosine_of_user_and_item() -> None:
    model = random_model(ONE_PASS)
    output = model(HISTORIES, TARGETS, with_codes=False)

    nothing = Evidence(model.catalog.is_unseen)
    logits = dense_logits(output.user_states, model.output_table(), {}, nothing)

    table = model.item_table()
    for item in (0, 17, NUM_ITEMS - 1):
        cosine = F.cosine_similarity(output.user_states, table[item], dim=-1)
        torch.testing.assert_close(logits[:, item], cosine / 0.05)
    assert output.code_logits is None


def test_an_item_is_the_sum_of_what_it_has() -> None:
    tables = random_tables()
    tables.is_present["text"][2] = tables.is_present["image"][2] = False
    model = random_model(ONE_PASS, tables)
    assert isinstance(model, OnePassRecommender)
    assert model.item_vectors.id_vectors is not None
    ids, embedding = model.item_vectors.id_vectors, model.code_embedding.weight
    of_codes = embedding[model.catalog.tokens].sum(1)

    table = model.item_table()

    torch.testing.assert_close(table[2], ids[2] + of_codes[2])
    unseen = NUM_ITEMS - 1  # content is all that is known of it
    expected = model.item_vectors.unseen_vector + sum(
        model.item_vectors.projections[m](x[unseen])
        for m, x in tables.content.items()
        if tables.is_present[m][unseen]
    )
    torch.testing.assert_close(table[unseen], expected)


def test_content_of_a_missing_modality_is_never_read() -> None:
    tables = random_tables()
    poisoned = random_tables()
    for name, is_present in tables.is_present.items():
        poisoned.content[name][~is_present] = 1e3
        poisoned.similarity[name][~is_present] = 1e3

    clean, same = (random_model(ONE_PASS, t).dense_scores(RAGGED) for t in (tables, poisoned))

    assert torch.equal(clean, same)


@pytest.mark.parametrize("part", ["use_id", "use_content", "use_codes"])
def test_each_part_of_an_item_can_be_switched_off(part: str) -> None:
    model = random_model(ONE_PASS.model_copy(update={part: False}))
    trainable = {name.split(".")[1] for name, _ in model.named_parameters() if "item_vec" in name}

    full, reduced = random_model(ONE_PASS).item_table(), model.item_table()

    assert not torch.allclose(full, reduced)
    assert ("id_vectors" in trainable) == (part != "use_id")
    assert ("projections" in trainable) == (part != "use_content")


def test_a_step_of_training_treats_some_items_as_it_would_if_they_were_unseen() -> None:
    tables = random_tables()
    model = random_model(ONE_PASS.model_copy(update={"item_dropout": 0.5}), tables)
    torch.manual_seed(5)

    drawn = model.draw_unseen()

    assert drawn[tables.is_unseen].all()
    assert 0.2 < drawn[~tables.is_unseen].float().mean() < 0.8
    # As if the catalog had said so: in what is read, what is ranked and what neighbors give.
    other = random_model(ONE_PASS.model_copy(update={"item_dropout": 0.5}), random_tables())
    other.load_state_dict({**model.state_dict(), "catalog.is_unseen": drawn})
    trained = model(HISTORIES, TARGETS, with_codes=False, is_unseen=drawn)
    unseen = other(HISTORIES, TARGETS, with_codes=False)
    torch.testing.assert_close(trained.user_states, unseen.user_states)
    torch.testing.assert_close(model.output_table(drawn), other.output_table())
    rows, places = (TARGETS >= 0).nonzero(as_tuple=True)
    here, there = (
        model.evidence(RAGGED, rows, places)._replace(is_unseen=drawn),
        other.evidence(RAGGED, rows, places),
    )
    states, table, biases = trained.user_states, model.output_table(drawn), model.dense_biases()
    assert biases.keys() == {"unseen", "repeat", "neighbor"}
    torch.testing.assert_close(
        dense_logits(states, table, biases, here), dense_logits(states, table, biases, there)
    )
    known = dense_logits(states, table, biases, model.evidence(RAGGED, rows, places))
    assert not torch.allclose(dense_logits(states, table, biases, here), known)
    with torch.inference_mode():
        model.output_table()  # what is remembered of the catalog as it is
        torch.testing.assert_close(model.output_table(drawn), table)


@pytest.mark.parametrize("config", [DEFAULT, TREE], ids=["light", "tree"])
def test_an_item_that_nothing_tells_of_does_not_blow_up_the_gradient(
    config: RecommenderConfig,
) -> None:
    tables = tables_for(config)
    silent = int((~tables.is_present["text"] & ~tables.is_present["image"]).nonzero()[0])
    model = build_recommender(config, tables, edges_of(config, tables))
    assert not model.item_table(torch.arange(NUM_ITEMS) == silent)[silent].any()

    output = model(HISTORIES, TARGETS, is_unseen=torch.arange(NUM_ITEMS) == silent)
    labels = model.code_targets(output.targets)
    loss = F.cross_entropy(output.code_logits.flatten(0, 1), labels.flatten())
    table = model.output_table(torch.arange(NUM_ITEMS) == silent)
    loss = loss + F.cross_entropy(output.user_states @ table.T, output.targets)
    loss.backward()

    gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    assert torch.stack(gradients).max() < 1e4


def test_nothing_is_hidden_where_no_content_would_be_left() -> None:
    model = random_model(ONE_PASS.model_copy(update={"use_content": False, "item_dropout": 0.5}))

    assert torch.equal(model.draw_unseen(), model.catalog.is_unseen)
    unseen = NUM_ITEMS - 1
    codes = model.code_embedding.weight[model.catalog.tokens[unseen]].sum(0)
    torch.testing.assert_close(model.item_table()[unseen], codes)


def test_a_boost_moves_new_items_alone() -> None:
    model = random_model(ONE_PASS)
    is_unseen = model.catalog.is_unseen

    plain, boosted = (model.dense_scores(RAGGED, new_item_boost=x) for x in (0.0, 2.0))

    moved = boosted - plain  # all are lowered alike by what new items gained
    torch.testing.assert_close(moved[:, is_unseen] - moved[:, :1], torch.full((4, 5), 2.0))
    torch.testing.assert_close(moved[:, ~is_unseen], moved[:, :1].expand(4, NUM_ITEMS - 5))


def test_item_vectors_are_remembered_only_while_no_weight_changes() -> None:
    model = random_model(ONE_PASS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    with torch.inference_mode():
        before = model.dense_scores(RAGGED)
        again = model.dense_scores(RAGGED)
    model.train()
    model.output_table().amax().backward()
    optimizer.step()
    model.eval()
    with torch.inference_mode():
        after = model.dense_scores(RAGGED)
    with torch.enable_grad():
        expected = model.dense_scores(RAGGED)

    assert torch.equal(before, again)
    torch.testing.assert_close(after, expected)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("name", FORMS)
def test_half_precision_stays_near_full(name: str) -> None:
    model = random_model(FORMS[name])
    candidates = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)
    full = model.score_items(HISTORIES, LENGTHS, candidates)

    with torch.autocast("cpu", torch.bfloat16):
        half = model.score_items(HISTORIES, LENGTHS, candidates)

    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.1


def test_tables_that_make_no_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one of"):
        RecommenderConfig.parse({"use_id": False, "use_content": False, "use_codes": False})
    config = ONE_PASS.model_copy(update={"use_id": False, "use_codes": False})
    longer = torch.zeros(NUM_ITEMS + 1, dtype=torch.bool)
    with pytest.raises(FeatureError, match="is_unseen has 41 rows, but there are 40 items"):
        build_recommender(ONE_PASS, random_tables()._replace(is_unseen=longer), {})
    with pytest.raises(ConfigError, match="no content vectors"):
        build_recommender(config, random_tables()._replace(content={}, is_present={}), {})


@pytest.mark.parametrize("name", FORMS)
def test_every_weight_learns(name: str) -> None:
    config = FORMS[name].model_copy(update={"dropout": 0.0, "learn_temperature": True})
    model = random_model(config).train()
    targets = torch.tensor([1, 2, 3, 4])

    if isinstance(model, OnePassRecommender):
        output = model(HISTORIES, TARGETS, start_targets=targets)
        logits, labels = output.code_logits, model.code_targets(output.targets)
        if model.walks_by_items:
            decoder = model.decoder
            compared = decoder.compare(output.user_states, model.prefix_vectors(decoder))
            logits, labels = (
                decoder.item_log_probabilities(compared)[:, None],
                output.targets[:, None],
            )
        wanted = torch.cat([targets[:, None], TARGETS], 1)
        evidence = model.evidence(RAGGED, *(wanted >= 0).nonzero(as_tuple=True))
        table, biases = model.output_table(), model.dense_biases()
        scores = dense_logits(output.user_states, table, biases, evidence)
        dense = F.cross_entropy(scores, output.targets)
    else:
        logits, labels = model(HISTORIES, LENGTHS, targets), model.code_targets(targets)
        dense = torch.zeros(())
    (F.cross_entropy(logits.flatten(0, 1), labels.flatten()) + dense).backward()

    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.3, 0.5])
def test_dropout_keeps_the_mean_and_drops_the_share(probability: float) -> None:
    torch.manual_seed(0)
    dropout = Dropout(probability)
    x = torch.ones(1001, 101)

    dropped = dropout(x)

    assert abs((dropped == 0).float().mean() - probability) < 0.005
    assert abs(dropped.mean() - 1) < 0.01
    assert len(dropped.unique()) == (2 if probability else 1)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_dropout_of_a_relu_is_both_one_after_the_other(
    probability: float, dtype: torch.dtype
) -> None:
    dropout, scale = Dropout(probability), torch.randn(100, 37)
    x = torch.randn(100, 37).to(dtype).requires_grad_()

    def gradient(found: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((found * scale).sum(), x)[0]

    torch.manual_seed(0)
    found = dropout.of_relu(x)
    torch.manual_seed(0)
    expected = dropout(x.relu())

    assert torch.equal(found, expected)
    assert torch.equal(gradient(found), gradient(expected))


def test_the_dot_product_ranks_by_the_vectors_as_they_are() -> None:
    tables = random_tables()._replace(neighbors={})
    dot = ONE_PASS.model_copy(update={"dense_score": "dot", "repeat_bias": False})
    model = random_model(dot, tables)
    output = model(HISTORIES, TARGETS, with_codes=False)

    nothing = Evidence(model.catalog.is_unseen)
    logits = dense_logits(output.user_states, model.output_table(), {}, nothing)

    every_dot = output.user_states @ model.item_table().T
    torch.testing.assert_close(logits, every_dot)
    after_row_1 = int((TARGETS[:2] >= 0).sum()) - 1
    with_bias = logits[after_row_1] + model.unseen_bias * model.catalog.is_unseen
    torch.testing.assert_close(model.dense_scores(RAGGED)[1], with_bias.log_softmax(-1))
    assert (model.item_table().norm(dim=-1) - 1).abs().max() > 0.01


@pytest.mark.parametrize("form", ["additive", "multiplicative"])
def test_encoding_the_last_place_alone_equals_encoding_all(form: str) -> None:
    similarity = SimilarityConfig(form=form)
    model = random_model(ONE_PASS.model_copy(update={"similarity": similarity}))

    alone = model._encode(HISTORIES, LENGTHS)

    expected = model._encode(HISTORIES, None)[torch.arange(len(LENGTHS)), LENGTHS]
    torch.testing.assert_close(alone, expected)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("form", ["additive", "multiplicative"])
@pytest.mark.parametrize("remembers_pairs", [True, False])
def test_reading_for_one_answer_equals_training_at_all_places(
    num_layers: int, form: str, remembers_pairs: bool
) -> None:
    similarity = SimilarityConfig(form=form, num_buckets=4)
    model = random_model(
        DEFAULT.model_copy(update={"num_encoder_layers": num_layers, "similarity": similarity})
    )
    assert model.similarity is not None
    model.similarity.remember_pairs = remembers_pairs

    expected = model.dense_scores(RAGGED)  # gradients flow: nothing is kept, all is computed
    with torch.inference_mode():
        found = [model.dense_scores(RAGGED) for _ in range(2)]

    assert expected.requires_grad
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1], found[0])
