"""The graphs that are exported compute what the model computes, for every form of it."""

import pytest
import torch
import torch.nn.functional as F
from small_catalogs import FORMS, HISTORIES, LENGTHS, NUM_ITEMS, ONE_PASS, RAGGED, random_model

from bbqrec.ranking import Histories
from bbqrec.recommender import OnePassRecommender, RecommenderConfig, dense_tables, graphs
from bbqrec.semantic_ids import PAD_TOKEN

WITHOUT_TABLES = ONE_PASS.model_copy(
    update={
        "repeat_bias": False,
        "neighbors": ONE_PASS.neighbors.model_copy(update={"enabled": False}),
        "dense_score": "dot",
    }
)
MULTIPLIED = ONE_PASS.model_copy(
    update={"similarity": ONE_PASS.similarity.model_copy(update={"form": "multiplicative"})}
)
SHORT = ONE_PASS.model_copy(update={"max_history": 3})
DENSE = {
    "one_pass": ONE_PASS,
    "without tables": WITHOUT_TABLES,
    "multiplied": MULTIPLIED,
    "short": SHORT,
}


@pytest.mark.parametrize("extra", [0, 4], ids=["tight", "padded"])
@pytest.mark.parametrize("config", DENSE.values(), ids=DENSE)
@torch.no_grad()
def test_scores_are_the_dense_score_of_the_whole_history(
    config: RecommenderConfig, extra: int
) -> None:
    model = random_model(config)
    assert isinstance(model, OnePassRecommender)

    found = graphs(model)["scores"].module(F.pad(HISTORIES, (0, extra), value=-1))

    torch.testing.assert_close(found, model.dense_scores(RAGGED))


@torch.no_grad()
def test_user_vectors_and_tables_make_up_the_score() -> None:
    model = random_model(ONE_PASS)
    assert isinstance(model, OnePassRecommender)
    added = dense_tables(model, new_item_boost=0.7)
    tables = {name: table.tolist() for name, table in added.items()}
    vectors = graphs(model)["user_vector"].module(HISTORIES) @ model.output_table().T

    for row, history in enumerate(HISTORIES.tolist()):
        latest_first = [item for item in reversed(history) if item >= 0]
        own = (vectors[row] + torch.tensor(tables["item_bias"])).tolist()
        logits = list(own)
        for kind, gain in enumerate(tables["neighbor_gain"]):
            for age, item in enumerate(latest_first[: len(gain)]):
                pairs = zip(
                    tables["neighbor_items"][kind][item],
                    tables["neighbor_buckets"][kind][item],
                    strict=True,
                )
                for neighbor, bucket in pairs:
                    logits[neighbor] += gain[age][bucket]
        for item in set(latest_first):
            age = latest_first.index(item) + 1
            logits[item] = own[item] + tables["repeat_by_age"][age]
        expected = torch.tensor(logits).log_softmax(-1)
        actual = model.dense_scores(RAGGED, new_item_boost=0.7)[row]
        torch.testing.assert_close(expected, actual)


def test_ages_far_back_share_the_last_entry_of_the_table() -> None:
    model = random_model(ONE_PASS)
    assert isinstance(model, OnePassRecommender)
    assert model.repeat_bias is not None

    by_age = dense_tables(model)["repeat_by_age"]

    assert len(by_age) == 2049
    for age, bucket in [(1, 0), (2, 1), (3, 1), (4, 2), (1023, 9), (1024, 10), (2048, 11)]:
        assert by_age[age] == model.repeat_bias[bucket]


@torch.no_grad()
def test_an_item_had_three_thousand_events_ago_is_scored_as_the_model_does() -> None:
    model = random_model(ONE_PASS)
    assert isinstance(model, OnePassRecommender)
    items = torch.cat([torch.tensor([NUM_ITEMS - 1]), torch.arange(3000) % (NUM_ITEMS - 1)])
    ragged = Histories(items, torch.tensor([0, 3001]))

    found = graphs(model)["scores"].module(items[None])

    torch.testing.assert_close(found, model.dense_scores(ragged))


@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
@torch.no_grad()
def test_steps_score_whole_semantic_ids_as_the_model_does(config: RecommenderConfig) -> None:
    model = random_model(config)
    parts = graphs(model)
    candidates = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)
    tokens = model.catalog.tokens[candidates]  # (batch, item, level)
    beams = F.pad(tokens, (1, 0), value=PAD_TOKEN)

    read = parts["encoder"].module(F.pad(HISTORIES, (0, 2), value=-1))
    read = read if isinstance(read, tuple) else (read,)
    scores = torch.zeros(candidates.shape)
    for level in range(model.catalog.num_levels):
        answer = parts["decoder_step"].module(*read, beams[..., : level + 1])
        scores += answer.gather(-1, tokens[..., level : level + 1])[..., 0]

    torch.testing.assert_close(scores, model.score_items(HISTORIES, LENGTHS, candidates))


@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
@torch.no_grad()
def test_a_step_offers_the_codes_of_its_level_alone(config: RecommenderConfig) -> None:
    model = random_model(config)
    parts = graphs(model)
    read = parts["encoder"].module(HISTORIES)
    read = read if isinstance(read, tuple) else (read,)

    answer = parts["decoder_step"].module(*read, torch.zeros((4, 1, 1), dtype=torch.int64))

    start, size = model.code_embedding.offsets[0], model.code_embedding.sizes[0]
    is_offered = answer.isfinite()
    assert is_offered[..., start : start + size].all()
    assert is_offered.sum() == answer.shape[0] * size


def test_cutting_a_model_into_graphs_leaves_it_as_it_was() -> None:
    model = random_model(ONE_PASS).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    graphs(model)

    assert model.training
    assert [name for name, x in model.named_parameters() if x.requires_grad] == learned
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
