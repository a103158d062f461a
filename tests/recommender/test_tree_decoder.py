"""The walk down the tree of semantic IDs, against loops over items."""

import pytest
import torch
import torch.nn.functional as F
from small_catalogs import (
    HISTORIES,
    LENGTHS,
    NEAR_TREE,
    NUM_ITEMS,
    RAGGED,
    TREE,
    random_model,
    random_tables,
)

from bbqrec.decoding import PrefixIndex, beam_search
from bbqrec.decoding.scorer import CatalogScorer
from bbqrec.recommender import (
    OnePassRecommender,
    RecommenderConfig,
    build_recommender,
    catalog_from_weights,
    dense_logits,
)
from bbqrec.recommender import tree_decoder as module
from bbqrec.recommender.tree_decoder import TreeDecoder
from bbqrec.semantic_ids import SemanticIds


def tree_model(config: RecommenderConfig = TREE) -> tuple[OnePassRecommender, TreeDecoder]:
    model = random_model(config)
    assert isinstance(model, OnePassRecommender)
    assert isinstance(model.decoder, TreeDecoder)
    return model, model.decoder


def walked(model: OnePassRecommender, state: torch.Tensor, item: int) -> float:
    """The log-probability of an item's semantic ID, prefix by prefix."""
    decoder = model.decoder
    assert isinstance(decoder, TreeDecoder)
    directions = F.normalize(model.item_table(), dim=-1)
    ids = [tuple(row) for row in model.catalog.codes.tolist()]
    first_seen: dict[tuple[int, ...], int] = {}
    for length in range(1, 4):
        names = dict.fromkeys(row[:length] for row in ids)
        first_seen |= {name: row for row, name in enumerate(names)}
    total = 0.0
    for number in range(3):
        level, parent = decoder.level(number), ids[item][:number]
        logits = {}
        for name in {row[: number + 1] for row in ids if row[:number] == parent}:
            below = [i for i, row in enumerate(ids) if row[: number + 1] == name]
            vector = level.from_items(F.normalize(directions[below].sum(0), dim=0))
            bias = 0.0
            if level.own is not None and level.bias is not None:
                vector = vector + level.own[first_seen[name]]
                bias = float(level.bias[first_seen[name]])
            cosine = F.cosine_similarity(level.from_state(state), vector, dim=0)
            logits[name] = cosine / level.log_temperature.exp() + bias
        scores = torch.stack([torch.as_tensor(x) for x in logits.values()])
        total += float(logits[ids[item][: number + 1]] - scores.logsumexp(0))
    return total


@torch.no_grad()
def test_the_score_of_an_item_is_that_of_its_prefixes_one_after_the_other() -> None:
    model, _ = tree_model()
    model.repeat_bias = None
    items = torch.tensor([0, 17, NUM_ITEMS - 1])

    scores = model.score_items(HISTORIES, LENGTHS, items.expand(len(HISTORIES), -1))

    states = model.states_after(HISTORIES, LENGTHS)
    for row, state in enumerate(states):
        expected = [walked(model, state, item) for item in items.tolist()]
        torch.testing.assert_close(scores[row], torch.tensor(expected), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_semantic_ids_of_all_items_have_probability_one() -> None:
    model, _ = tree_model()
    codes, item = model.catalog.codes, torch.arange(NUM_ITEMS)
    is_first = torch.tensor([not (codes[:i] == codes[i]).all(1).any() for i in range(NUM_ITEMS)])

    scores = model.score_items(HISTORIES, LENGTHS, item[is_first].expand(len(HISTORIES), -1))

    assert not is_first.all()
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(HISTORIES)))


def test_what_repeats_are_worth_changes_items_and_leaves_the_odds_of_the_others() -> None:
    model, _ = tree_model()
    bias, codes = model.repeat_bias, model.catalog.codes
    assert bias is not None
    bias.data.copy_(torch.linspace(-3, 2, len(bias)))
    everything = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)
    is_first = torch.tensor([not (codes[:i] == codes[i]).all(1).any() for i in range(NUM_ITEMS)])

    changed = model.score_items(HISTORIES, LENGTHS, everything)
    model.repeat_bias = None
    plain = model.score_items(HISTORIES, LENGTHS, everything)

    for row, (history, length) in enumerate(zip(HISTORIES, LENGTHS.tolist(), strict=True)):
        expected = plain[row].clone()
        done: set[tuple[int, ...]] = set()
        for age, item in enumerate(history[:length].flip(0).tolist(), start=1):
            name = tuple(codes[item].tolist())
            if name not in done:
                expected[(codes == codes[item]).all(1)] += bias[age.bit_length() - 1]
                done.add(name)
        expected = expected - expected[is_first].logsumexp(0)
        torch.testing.assert_close(changed[row], expected, atol=1e-4, rtol=1e-4)
        if length:  # what is learned of it follows from the same formula
            (found, wanted) = (
                torch.autograd.grad(x[3], bias, retain_graph=True)[0]
                for x in (changed[row], expected)
            )
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_copying_vectors_and_one_product_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tree_model()
    everything = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)
    scores = []

    for cost in (0, 10**9):
        monkeypatch.setattr(module, "COPY_COST", cost)
        scores.append(model.score_items(HISTORIES, LENGTHS, everything))

    torch.testing.assert_close(*scores)


def test_learning_reaches_every_part_of_the_tree() -> None:
    model, decoder = tree_model()
    targets = torch.where(HISTORIES >= 0, (HISTORIES * 7 + 3) % NUM_ITEMS, -1)

    output = model(HISTORIES, targets)
    labels = model.code_targets(output.targets)
    F.cross_entropy(output.code_logits.flatten(0, 1), labels.flatten()).backward()

    for name, parameter in decoder.named_parameters():
        if name.endswith("log_temperature"):
            continue  # learned on demand alone
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert model.item_vectors.id_vectors.grad.abs().sum() > 0


@torch.no_grad()
def test_items_that_come_later_leave_the_rows_of_others_where_they_are() -> None:
    model, decoder = tree_model()
    tables, edges = catalog_from_weights(model.state_dict())
    ids = tables.semantic_ids
    shorter = 30
    part = tables._replace(
        semantic_ids=SemanticIds(ids.codes[:shorter], ids.codebook_sizes),
        content={name: x[:shorter] for name, x in tables.content.items()},
        is_present={name: x[:shorter] for name, x in tables.is_present.items()},
        similarity={name: x[:shorter] for name, x in tables.similarity.items()},
        similarity_present={name: x[:shorter] for name, x in tables.similarity_present.items()},
        is_unseen=tables.is_unseen[:shorter],
        neighbors={},
    )
    before = build_recommender(TREE, part, edges).decoder
    assert isinstance(before, TreeDecoder)

    for number in range(2):
        old, new = before.level(number), decoder.level(number)
        old_row = old.own_row[old.prefix_of_item]
        assert torch.equal(new.own_row[new.prefix_of_item[:shorter]], old_row)
    assert len(decoder.level(1).code) > len(before.level(1).code)


def test_the_codes_before_tell_which_codes_there_are() -> None:
    model, _ = tree_model()
    codes = model.catalog.codes
    session = model.begin(HISTORIES, LENGTHS)

    session.first()
    log_probs = session.extend(
        torch.zeros(len(HISTORIES), 6, dtype=torch.int64),
        torch.arange(6).expand(len(HISTORIES), -1),
    )

    for first in range(6):
        there = set(codes[codes[:, 0] == first, 1].tolist())
        finite = log_probs[0, first].isfinite().nonzero()[:, 0].tolist()
        assert set(finite) == there


def test_random_catalogs_have_items_that_share_a_semantic_id() -> None:
    assert random_tables().semantic_ids.collision_rate > 0


@torch.no_grad()
@pytest.mark.parametrize("at_once", [False, True])
def test_no_level_is_compared_twice_for_repeats(
    at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, decoder = tree_model()
    assert model.repeat_bias is not None
    model.repeat_bias.fill_(0.5)
    compared: list[int] = []

    def product(states: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        compared.append(len(vectors) + len(states) - len(HISTORIES))  # in either order
        return states @ vectors.T

    monkeypatch.setattr(module, "full_product", product)
    if at_once:
        session = model.begin(HISTORIES, LENGTHS)
        assert isinstance(session, CatalogScorer)
        session.every_item()
    else:
        model.score_items(HISTORIES, LENGTHS, torch.zeros(len(HISTORIES), 1).long())

    assert sorted(compared) == sorted(
        len(decoder.level(number).code) for number in range(len(decoder.levels))
    )


def test_a_walk_follows_the_prefixes_of_the_items() -> None:
    model, decoder = tree_model()
    prefix = torch.zeros(NUM_ITEMS, dtype=torch.int64)

    for number, codes in enumerate(model.catalog.codes.T):
        prefix = decoder.level(number).follow(prefix, codes)

        assert torch.equal(prefix, decoder.level(number).prefix_of_item)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, len(HISTORIES)])
@pytest.mark.parametrize("has_repeats", [False, True])
def test_all_items_at_once_score_as_one_by_one(batch: int, has_repeats: bool) -> None:
    model, _ = tree_model()
    if not has_repeats:
        model.repeat_bias = None
    histories = HISTORIES[:batch], LENGTHS[:batch]
    candidates = torch.arange(NUM_ITEMS).expand(batch, -1)

    session = model.begin(*histories)
    scores = session.every_item()

    expected = model.score_items(*histories, candidates)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    assert isinstance(session, CatalogScorer)
    index = PrefixIndex.build(random_tables().semantic_ids)
    found = beam_search(session, index, beam_width=NUM_ITEMS)  # what was asked before changes none
    torch.testing.assert_close(found.scores, expected.gather(1, found.items))


@torch.no_grad()
def test_neighbors_are_added_to_the_log_probability_of_every_item() -> None:
    model, _ = tree_model(NEAR_TREE)
    codes = model.catalog.codes
    candidates = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)

    found = model.score_items(HISTORIES, LENGTHS, candidates)

    evidence = model.evidence(RAGGED, torch.arange(len(HISTORIES)), LENGTHS)
    states, nothing = torch.zeros(len(HISTORIES), 1), torch.zeros(NUM_ITEMS, 1)
    added = dense_logits(states, nothing, model.dense_biases(), evidence)
    plain, _ = tree_model()
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.repeat_bias = None
    scores = plain.score_items(HISTORIES, LENGTHS, candidates) + added
    assert added.std() > 1
    by_item = scores.log_softmax(-1)
    for item in range(NUM_ITEMS):  # those that share a semantic ID cannot be told apart
        alike = (codes == codes[item]).all(1)
        torch.testing.assert_close(found[:, item], by_item[:, alike].logsumexp(1))


@pytest.mark.parametrize("batch", [1, len(HISTORIES)])
def test_the_gradient_of_all_items_at_once_is_that_of_each(batch: int) -> None:
    model, decoder = tree_model()
    states = F.normalize(torch.randn(batch, TREE.d_model, generator=torch.manual_seed(0)), dim=1)
    candidates = torch.arange(NUM_ITEMS).expand(batch, -1)
    weight = torch.randn(batch, NUM_ITEMS)
    gradients = []

    for at_once in (True, False):
        compared = decoder.compare(states, model.prefix_vectors(decoder))
        if at_once:
            scores = decoder.item_scores(*decoder.inputs(compared))
        else:
            by_level = decoder.log_probabilities(compared, candidates)
            scores = by_level.gather(-1, model.catalog.codes[candidates][..., None]).sum((2, 3))
        parameters = [p for p in decoder.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad((scores * weight).sum(), parameters))

    for found, expected in zip(*gradients, strict=True):
        assert expected.any()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("is_distinct", [False, True])
def test_a_walk_by_all_items_finds_what_they_score(is_distinct: bool) -> None:
    tables = random_tables()
    if is_distinct:
        item = torch.arange(NUM_ITEMS)
        codes = torch.stack([item % 6, item // 6 % 5, item // 30], 1)
        tables = tables._replace(semantic_ids=SemanticIds(codes, (6, 5, 7)))
    assert (tables.semantic_ids.collision_rate == 0) == is_distinct
    model = random_model(NEAR_TREE, tables)
    index = PrefixIndex.build(tables.semantic_ids)

    found = beam_search(model.begin(HISTORIES, LENGTHS), index, beam_width=NUM_ITEMS)

    session = model.begin(HISTORIES, LENGTHS)
    assert isinstance(session, CatalogScorer)
    scores = session.every_item()
    torch.testing.assert_close(found.scores, scores.gather(1, found.items))
    assert all(len(set(row)) == NUM_ITEMS for row in found.items.tolist())
