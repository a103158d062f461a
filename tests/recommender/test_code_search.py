"""Searching code by code, scoring whole items and plain enumeration agree."""

import copy

import pytest
import torch
from small_catalogs import (
    FORMS,
    HISTORIES,
    LENGTHS,
    NUM_ITEMS,
    RAGGED,
    random_model,
    random_tables,
)

from bbqrec.decoding import (
    GenerativeModel,
    PrefixIndex,
    RankingConfig,
    beam_search,
    make_ranker,
)
from bbqrec.ranking import Ranking
from bbqrec.recommender import (
    RecommenderConfig,
    SequenceModel,
    build_recommender,
    catalog_from_weights,
)
from bbqrec.recommender.code_search import PlaceMaps
from bbqrec.semantic_ids import SemanticIds

WRITING = FORMS["paper"]


def search(model: SequenceModel, index: PrefixIndex) -> Ranking:
    with torch.inference_mode():
        return beam_search(model.begin(HISTORIES, LENGTHS), index, beam_width=NUM_ITEMS)


@pytest.mark.parametrize("head_dim", [2, 16])  # attention to places never, from the root on
@pytest.mark.parametrize("is_less_work", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_search_steps_score_as_teacher_forcing_does(
    name: str, is_less_work: bool, head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlaceMaps, "is_less_work", lambda *_: is_less_work)
    model = random_model(FORMS[name].model_copy(update={"head_dim": head_dim}))
    with torch.no_grad():  # a norm's gain of 1 would hide where it is forgotten
        for parameter in model.decoder.parameters():
            parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    codes = model.catalog.codes
    batch = len(HISTORIES)
    generator = torch.Generator().manual_seed(3)
    # Beams are items in an order that changes at every level, so parents really matter.
    orders = [
        torch.stack([torch.randperm(NUM_ITEMS, generator=generator) for _ in range(batch)])
        for _ in range(codes.shape[1])
    ]

    session = model.begin(HISTORIES, LENGTHS)
    scores = session.first().gather(1, codes[orders[0]][:, :, 0])
    parents = torch.zeros_like(orders[0])
    for level, items in enumerate(orders[:-1], start=1):
        next_codes = session.extend(parents, codes[items][:, :, level - 1])
        scores = scores + next_codes.gather(2, codes[items][:, :, level, None])[:, :, 0]
        # Beam b goes on as item orders[level][b]: find which beam that item was.
        parents = (items[:, None, :] == orders[level][:, :, None]).int().argmax(2)
        scores = scores.gather(1, parents)

    expected = model.score_items(HISTORIES, LENGTHS, orders[-1])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["loaded", "assigned", "trained", "copied"])
@pytest.mark.parametrize("name", FORMS)
def test_a_search_reads_the_weights_as_they_are_now(name: str, change: str) -> None:
    model = random_model(FORMS[name])
    index = PrefixIndex.build(random_tables().semantic_ids)
    before = search(model, index)

    if change in ("loaded", "assigned"):
        generator = torch.Generator().manual_seed(1)
        model.load_state_dict(
            {
                name: x + 0.1 * torch.randn(x.shape, generator=generator)
                if x.is_floating_point() and name.startswith(("decoder.", "encoder.", "position"))
                else x
                for name, x in model.state_dict().items()
            },
            assign=change == "assigned",
        )
    else:
        model = copy.deepcopy(model) if change == "copied" else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        model.train()
        first = torch.zeros(len(HISTORIES), 1).long()
        model.score_items(HISTORIES, LENGTHS, first).sum().backward()
        optimizer.step()
        model.eval()

    after = search(model, index)
    expected = model.score_items(HISTORIES, LENGTHS, after.items)
    torch.testing.assert_close(after.scores, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after.scores, before.scores, atol=1e-2)


def test_hidden_layers_a_page_wide_change_nothing() -> None:
    model = random_model(WRITING.model_copy(update={"d_ff": 1024}))

    found = search(model, PrefixIndex.build(random_tables().semantic_ids))

    expected = model.score_items(HISTORIES, LENGTHS, found.items)
    torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=1e-5)


def test_codes_written_in_half_precision_stay_near_those_in_full() -> None:
    model = random_model(WRITING)
    index = PrefixIndex.build(random_tables().semantic_ids)
    full = search(model, index)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = search(model, index)

    assert full.scores.dtype == half.scores.dtype == torch.float32
    assert not torch.equal(full.scores, half.scores)
    torch.testing.assert_close(half.scores, full.scores, atol=0.3, rtol=0)


@pytest.mark.parametrize("name", FORMS)
def test_a_beam_as_wide_as_the_catalog_finds_the_items_with_the_best_scores(name: str) -> None:
    model = random_model(FORMS[name])
    assert isinstance(model, GenerativeModel)
    index = PrefixIndex.build(random_tables().semantic_ids)
    with torch.inference_mode():
        ranking = beam_search(model.begin(HISTORIES, LENGTHS), index, beam_width=NUM_ITEMS)

        everything = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)
        expected = model.score_items(HISTORIES, LENGTHS, everything)

    torch.testing.assert_close(ranking.scores, expected.sort(descending=True).values)
    torch.testing.assert_close(ranking.scores, expected.gather(1, ranking.items))


@pytest.mark.parametrize("name", FORMS)
def test_first_level_probabilities_sum_to_their_share(name: str) -> None:
    model = random_model(FORMS[name])

    total = model.begin(HISTORIES, LENGTHS).first().exp().sum(1)

    if FORMS[name].normalize == "level":
        torch.testing.assert_close(total, torch.ones(len(HISTORIES)))
    else:
        assert (total < 1).all()


@pytest.mark.parametrize("name", FORMS)
def test_padding_and_neighbors_in_the_batch_change_nothing(name: str) -> None:
    model = random_model(FORMS[name])
    candidates = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)
    wide = torch.nn.functional.pad(HISTORIES, (0, 6), value=-1)

    together = model.score_items(wide, LENGTHS, candidates)

    for row, length in enumerate(LENGTHS.tolist()):
        alone = HISTORIES[row : row + 1, : max(1, length)]
        scores = model.score_items(alone, LENGTHS[row : row + 1], candidates[:1])
        torch.testing.assert_close(together[row], scores[0], atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()


@pytest.mark.parametrize("name", FORMS)
def test_a_model_is_rebuilt_from_its_config_and_weights(name: str) -> None:
    model = random_model(FORMS[name])
    candidates = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    again = build_recommender(FORMS[name], *catalog_from_weights(weights)).eval()
    again.load_state_dict(weights)

    expected = model.score_items(HISTORIES, LENGTHS, candidates)
    assert torch.equal(again.score_items(HISTORIES, LENGTHS, candidates), expected)
    assert again.catalog.sizes == random_tables().semantic_ids.codebook_sizes


@pytest.mark.parametrize("rank_by", ["generative", "dense", "both"])
def test_ranking_in_half_precision_stays_near_full_and_does_not_tie(rank_by: str) -> None:
    config = RecommenderConfig(d_model=32, num_heads=2, head_dim=16, d_ff=64, decoder="light")
    tables = random_tables()
    model = random_model(config, tables)
    rankings = {}

    for precision in ("fp32", "bf16"):
        settings = {"rank_by": rank_by, "precision": precision, "beam_width": NUM_ITEMS}
        ranker = make_ranker(model, tables.semantic_ids, RankingConfig.parse(settings))
        rankings[precision] = ranker.rank(RAGGED, 20, exclude_seen=False)

    full, half = rankings["fp32"], rankings["bf16"]
    assert not torch.equal(full.scores, half.scores)
    torch.testing.assert_close(half.scores, full.scores, atol=0.3, rtol=0)
    shared = (half.items[:, :, None] == full.items[:, None, :]).any(2)
    assert shared.double().mean() > 0.8
    # Rounded to 8 bits, most of the scores would stand in for several.
    is_own_score = half.scores.diff().abs() > 0
    assert is_own_score.double().mean() > 0.7


@pytest.mark.parametrize("normalize", ["level", "vocabulary"])
def test_items_of_a_single_code_are_written_too(normalize: str) -> None:
    ids = SemanticIds(torch.arange(NUM_ITEMS)[:, None] % 9, (9,))
    config = FORMS["one_pass"].model_copy(update={"normalize": normalize})
    model = random_model(config, random_tables()._replace(semantic_ids=ids))

    found = search(model, PrefixIndex.build(ids))

    expected = model.score_items(HISTORIES, LENGTHS, found.items)
    torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=1e-5)
