"""Every number of an explanation equals what brute force finds."""

import math

import pytest
import torch
from small_catalogs import (
    LEVEL,
    LIGHT,
    NEAR_TREE,
    NUM_ITEMS,
    ONE_PASS,
    PAPER,
    TREE,
    random_model,
    random_tables,
)
from small_datasets import make_dataset

from bbqrec.decoding import RankBy, RankingConfig, make_ranker
from bbqrec.errors import RequestError
from bbqrec.explain import CodeLabels, Explainer, Explanation
from bbqrec.ranking import Histories
from bbqrec.recommend import Recommender
from bbqrec.recommender import NeighborConfig, RecommenderConfig, SimilarityConfig, TreeDecoder
from bbqrec.recommender.transformer import Layout
from bbqrec.semantic_ids import SemanticIds

SHORT = ONE_PASS.model_copy(update={"max_history": 4})
FEW_NEIGHBORS = SHORT.model_copy(update={"neighbors": NeighborConfig(num_recent=3)})
DOT = ONE_PASS.model_copy(update={"dense_score": "dot", "repeat_bias": False})
NOTHING = SHORT.model_copy(
    update={
        "similarity": SimilarityConfig(enabled=False),
        "neighbors": NeighborConfig(enabled=False),
        "use_content": False,
    }
)
SHORT_TREE = NEAR_TREE.model_copy(update={"max_history": 4})
SHORT_PAPER = PAPER.model_copy(update={"max_history": 4})
DENSE = {"one_pass": ONE_PASS, "short": SHORT, "few": FEW_NEIGHBORS, "dot": DOT, "none": NOTHING}
RANKED: dict[str, tuple[RecommenderConfig, RankBy]] = {
    **{name: (config, "dense") for name, config in DENSE.items()},
    "dense light": (LIGHT, "dense"),
    "both": (SHORT, "both"),
    "generative": (SHORT, "generative"),
    "generative level": (LEVEL, "generative"),
    "generative light": (LIGHT, "generative"),
    "tree": (TREE, "generative"),
    "near tree": (NEAR_TREE, "generative"),
    "short tree": (SHORT_TREE, "generative"),
    "both on a tree": (NEAR_TREE, "both"),
    "paper": (PAPER, "generative"),
    "short paper": (SHORT_PAPER, "generative"),
}
# A repeat within reach, one beyond it, and items that training has not seen (35 to 39).
HISTORY = [3, 9, 7, 1, 36, 20, 7, 12, 39, 20]
EXPLAINED = [5, 7, 3, 38]


def make_recommender(config: RecommenderConfig, rank_by: RankBy) -> Recommender:
    ids = random_tables().semantic_ids
    model = random_model(config)
    ranking = RankingConfig(rank_by=rank_by, exhaustive=True, generative_weight=0.3, batch_size=4)
    dataset = make_dataset([[1, 2, 3], [4, 5, 6]], NUM_ITEMS)
    return Recommender(dataset, ids, model, make_ranker(model, ids, ranking))


def make_explainer(recommender: Recommender) -> Explainer:
    words = ["wooden red", "woolen blue"]
    texts = [words[item % 2] for item in range(NUM_ITEMS)]
    labels = CodeLabels(recommender.semantic_ids, texts)
    return Explainer(recommender, labels, writes_codes=True)


def names(items: list[int]) -> list[str]:
    return [f"i{item}" for item in items]


def score_by_ranking(recommender: Recommender, history: list[int], item: int) -> float:
    """What the public ranker says when it ranks the whole catalog."""
    events = torch.tensor(history, dtype=torch.long)
    one = Histories(events, torch.tensor([0, len(history)]))
    ranking = recommender.ranker.rank(one, NUM_ITEMS, exclude_seen=False)
    place = (ranking.items[0] == item).nonzero()[0, 0]
    return float(ranking.scores[0, place])


@pytest.fixture(params=RANKED, scope="module")
def recommender(request: pytest.FixtureRequest) -> Recommender:
    return make_recommender(*RANKED[request.param])


@pytest.fixture(scope="module")
def explained(recommender: Recommender) -> list[Explanation]:
    return make_explainer(recommender).explain(names(HISTORY), names(EXPLAINED))


def test_left_out_is_the_score_less_that_of_the_history_without_the_event(
    recommender: Recommender, explained: list[Explanation]
) -> None:
    for item, explanation in zip(EXPLAINED, explained, strict=True):
        whole = score_by_ranking(recommender, HISTORY, item)
        first = len(HISTORY) - len(explanation.history)
        for place, part in enumerate(explanation.history, start=first):
            shortened = HISTORY[:place] + HISTORY[place + 1 :]
            without = score_by_ranking(recommender, shortened, item)

            assert part.item_id == f"i{HISTORY[place]}"
            assert part.left_out == pytest.approx(whole - without, abs=2e-4)
        assert explanation.score == pytest.approx(whole, abs=1e-4)


def test_every_event_that_can_matter_is_there_but_for_old_repeats(
    recommender: Recommender, explained: list[Explanation]
) -> None:
    unread = len(HISTORY) - len(explained[0].history)

    for item, explanation in zip(EXPLAINED, explained, strict=True):
        whole = score_by_ranking(recommender, HISTORY, item)
        latest = score_by_ranking(recommender, HISTORY[unread:], item)
        is_old_repeat = item in HISTORY[:unread] and item not in HISTORY[unread:]
        is_dense = explanation.rank_by != "generative"
        if not is_dense or not (set(HISTORY[:unread]) - set(HISTORY[unread:])):
            assert latest == pytest.approx(whole, abs=1e-4)
        elif is_old_repeat:
            assert explanation.parts.repeat != 0


def test_the_parts_are_the_score(recommender: Recommender, explained: list[Explanation]) -> None:
    weight = {"dense": 0.0, "generative": 1.0, "both": 0.3}
    knows_neighbors = recommender.model.catalog.neighbors()
    for explanation in explained:
        assert explanation.generative_weight == weight[explanation.rank_by]
        assert explanation.levels is not None
        written = sum(step.log_probability for step in explanation.levels)
        parts = explanation.parts
        if parts is None:
            assert explanation.rank_by == "generative"
            assert explanation.score == pytest.approx(written, abs=2e-4)
            continue
        assert explanation.logit is not None
        assert explanation.log_normalizer is not None
        compared = parts.tree + parts.own + sum(parts.content.values()) + parts.codes
        assert compared + parts.new + parts.neighbors + parts.repeat == pytest.approx(
            explanation.logit, abs=1e-4
        )
        total = explanation.logit - explanation.log_normalizer
        if explanation.rank_by == "generative":
            assert knows_neighbors
            assert parts.tree < 0
            assert written == pytest.approx(total, abs=2e-4)
        else:
            assert parts.tree == 0
            total += explanation.generative_weight * written
        assert explanation.score == pytest.approx(total, abs=2e-4)


@pytest.mark.parametrize("name", ["short", "near tree"])
def test_log_normalizers_are_of_all_items_together(name: str) -> None:
    recommender = make_recommender(*RANKED[name])
    ids = recommender.semantic_ids.codes.tolist()
    every = names(list(range(NUM_ITEMS)))

    explained = make_explainer(recommender).explain(names(HISTORY), every)

    logits = torch.tensor([explanation.logit for explanation in explained])
    for row, explanation in zip(ids, explained, strict=True):
        if ids.count(row) == 1 or explanation.rank_by == "dense":  # else it is found with others
            assert explanation.log_normalizer == pytest.approx(float(logits.logsumexp(0)), abs=1e-4)


@pytest.mark.parametrize("name", ["one_pass", "short", "dot", "near tree", "short tree"])
def test_a_neighbor_gave_what_is_missing_when_it_has_no_neighbors(name: str) -> None:
    recommender = make_recommender(*RANKED[name])
    model = recommender.model
    catalog = model.catalog
    explained = make_explainer(recommender).explain(names(HISTORY), names(EXPLAINED))
    gave_something = 0

    for kind, likeness in catalog.neighbors().items():
        nothing = likeness.edges.shape[0] + 1
        for event in set(HISTORY):
            buckets = catalog.neighbor_buckets[kind]
            kept = buckets.clone()
            buckets[0, event] = nothing
            without = make_explainer(recommender).explain(names(HISTORY), names(EXPLAINED))
            buckets.copy_(kept)
            for whole, less in zip(explained, without, strict=True):
                gifts = [p.neighbor[kind] for p in whole.history if p.item_id == f"i{event}"]
                assert sum(gifts) == pytest.approx(whole.logit - less.logit, abs=1e-4)
                gave_something += sum(gifts) != 0
    assert gave_something > 5


@pytest.mark.parametrize("name", ["short", "near tree"])
def test_without_repeats_and_neighbors_the_logit_is_what_comparing_says(name: str) -> None:
    recommender = make_recommender(*RANKED[name])
    explained = make_explainer(recommender).explain(names(HISTORY), names(EXPLAINED))
    model = recommender.model
    with torch.no_grad():
        model.neighbor_bias.zero_()
    without_neighbors = make_explainer(recommender).explain(names(HISTORY), names(EXPLAINED))
    with torch.no_grad():
        model.repeat_bias.zero_()
    bare = make_explainer(recommender).explain(names(HISTORY), names(EXPLAINED))

    for item, a, b, c in zip(EXPLAINED, explained, without_neighbors, bare, strict=True):
        assert a.parts.neighbors == pytest.approx(a.logit - b.logit, abs=1e-4)
        assert a.parts.repeat == pytest.approx(b.logit - c.logit, abs=1e-4)
        assert (a.parts.repeat != 0) == (item in HISTORY)
        assert c.parts.neighbors == c.parts.repeat == 0
        assert (a.parts.codes == 0) == (item >= NUM_ITEMS - 5 or name == "near tree")


@pytest.mark.parametrize("part", ["own", "text", "image"])
def test_without_a_part_the_logit_lacks_just_that(part: str) -> None:
    """By the dot product: the cosine of less of a vector has another norm."""
    recommender = make_recommender(DOT, "dense")
    item = 5
    before = make_explainer(recommender).explain(["i3", "i9"], [f"i{item}"])[0]
    vectors, catalog = recommender.model.item_vectors, recommender.model.catalog
    with torch.no_grad():
        (vectors.id_vectors if part == "own" else catalog.content[part])[item] = 0

    after = make_explainer(recommender).explain(["i3", "i9"], [f"i{item}"])[0]

    named = before.parts.own if part == "own" else before.parts.content[part]
    assert named == pytest.approx(before.logit - after.logit, abs=1e-4)


@torch.no_grad()
def test_the_part_of_the_codes_is_the_product_with_their_vectors() -> None:
    recommender = make_recommender(ONE_PASS, "dense")
    model = recommender.model
    explanation = make_explainer(recommender).explain(["i3", "i9"], ["i20"])[0]

    state = model.user_states(Histories(torch.tensor([3, 9]), torch.tensor([0, 2])))[0]
    codes = model.code_embedding.weight[model.catalog.tokens[20]].sum(0)
    expected = float(codes @ state) / float(model.item_table()[20].norm()) / ONE_PASS.temperature
    assert explanation.parts.codes == pytest.approx(expected, abs=1e-4)


def test_levels_are_those_of_scoring_all_codes_after_the_prefix(
    recommender: Recommender, explained: list[Explanation]
) -> None:
    model, codes = recommender.model, recommender.semantic_ids.codes
    window = torch.tensor(HISTORY[-model.max_history :])[None]
    lengths = torch.tensor([window.shape[1]])
    for item, explanation in zip(EXPLAINED, explained, strict=True):
        assert explanation.levels is not None
        expected = written(recommender, window, lengths, item)
        for level, step in enumerate(explanation.levels):
            starts = (codes[:, :level] == codes[item, :level]).all(1)
            others = set(codes[starts, level].tolist()) - {int(codes[item, level])}
            best = sorted(others, key=lambda code: -expected[level][code])[:3]
            assert step.code == int(codes[item, level])
            assert step.log_probability == pytest.approx(expected[level][step.code], abs=1e-4)
            assert [other.code for other in step.runners_up] == best
            for other in step.runners_up:
                assert other.log_probability == pytest.approx(expected[level][other.code], abs=1e-4)
        with torch.no_grad():
            total = model.score_items(window, lengths, torch.tensor([[item]]))
        assert sum(s.log_probability for s in explanation.levels) == pytest.approx(
            float(total), abs=1e-4
        )


@torch.no_grad()
def written(
    recommender: Recommender, window: torch.Tensor, lengths: torch.Tensor, item: int
) -> list[list[float]]:
    """Per level the log-probability of every code, each one written as if it were the item's."""
    model, ids = recommender.model, recommender.semantic_ids
    if isinstance(model.decoder, TreeDecoder):  # it writes nothing: prefixes are what is below
        return found_below(recommender, window, lengths, item)
    encoded, tokens = model.read(window, lengths), model.catalog.tokens
    kept = tokens[item].clone()
    result = []
    for level, size in enumerate(ids.codebook_sizes):
        scores = []
        for code in range(size):
            tokens[item, level] = code + int(ids.level_offsets[level])
            hidden = model.write(torch.tensor([item]), encoded, Layout.full(1, 1))
            logits = model.code_embedding.logits(hidden).log_softmax(-1)
            target = model.code_targets(torch.tensor([item]))[0, level]
            scores.append(float(logits[0, level, target]))
            tokens[item] = kept
        result.append(scores)
    return result


def found_below(
    recommender: Recommender, window: torch.Tensor, lengths: torch.Tensor, item: int
) -> list[list[float]]:
    """As `written`, by adding up what all items have."""
    codes = recommender.semantic_ids.codes
    p = recommender.model.score_items(window, lengths, torch.arange(NUM_ITEMS)[None])[0].exp()
    _, leaf = codes.unique(dim=0, return_inverse=True)
    p = p / leaf.bincount()[leaf]  # items that share a semantic ID have all of it
    result = []
    for level, size in enumerate(recommender.semantic_ids.codebook_sizes):
        starts = (codes[:, :level] == codes[item, :level]).all(1)
        below = [float(p[starts & (codes[:, level] == code)].sum()) for code in range(size)]
        result.append([math.log(share / sum(below)) if share else -math.inf for share in below])
    return result


def test_withdrawn_items_are_no_runners_up() -> None:
    recommender = make_recommender(ONE_PASS, "dense")
    codes = recommender.semantic_ids.codes
    before = make_explainer(recommender).explain(["i3"], ["i5"])[0]
    gone = before.levels[0].runners_up[0].code
    recommender.available = codes[:, 0] != gone

    after = make_explainer(recommender).explain(["i3"], ["i5"])[0]

    assert gone not in [other.code for other in after.levels[0].runners_up]
    assert len(after.levels[0].runners_up) == 3


def test_a_repeat_that_is_too_old_to_be_read_still_counts() -> None:
    recommender = make_recommender(FEW_NEIGHBORS, "dense")

    explanation = make_explainer(recommender).explain(names(HISTORY), ["i3"])[0]

    assert "i3" not in [part.item_id for part in explanation.history]
    assert explanation.parts.repeat != 0


def test_unknown_events_are_passed_over_and_strangers_refused() -> None:
    recommender = make_recommender(ONE_PASS, "dense")
    explainer = make_explainer(recommender)

    with_unknown = explainer.explain(["nonsense", "i3", "?", "i9"], ["i5"])
    without = explainer.explain(["i3", "i9"], ["i5"])
    alone = explainer.explain(["i3"], ["i5"])[0]

    assert with_unknown == without
    assert explainer.num_read(["nonsense", "i3", "?", "i9"]) == 2
    assert explainer.explain(["i3"], []) == []
    assert alone.history[0].left_out == pytest.approx(
        alone.score - score_by_ranking(recommender, [], 5), abs=1e-4
    )
    for history, item_ids, words in [
        (["i3"], ["nonsense"], "there is no item 'nonsense'"),
        (["nonsense"], ["i5"], "nothing in the history is in the catalog"),
        ([], ["i5"], "nothing in the history is in the catalog"),
    ]:
        with pytest.raises(RequestError, match=words):
            explainer.explain(history, item_ids)


def test_explaining_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = make_recommender(PAPER, "generative")
    before = recommender.recommend([names(HISTORY)], k=NUM_ITEMS, exclude_seen=False)
    recommender.model.train()

    make_explainer(recommender).explain(names(HISTORY), names(EXPLAINED))

    assert recommender.model.training
    recommender.model.eval()
    assert recommender.recommend([names(HISTORY)], k=NUM_ITEMS, exclude_seen=False) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in recommender.model.modules())


def test_codes_are_called_by_what_tells_them_from_others() -> None:
    firsts = [0] * 30 + [1] * 30
    seconds = list(range(6)) * 10
    things = ["chair", "table", "desk", "stool", "shelf", "bench"] * 5
    texts = [f"oak {thing}" for thing in things] + [f"iron {thing}" for thing in things]
    ids = SemanticIds(torch.tensor([firsts, seconds]).T, (3, 6))

    labels = CodeLabels(ids, texts)

    assert not labels.is_prepared
    assert labels.of((0,)) == "oak"
    assert labels.of((0, 1)) == "table"
    assert labels.of((1, 5)) == "bench"
    assert labels.of((2,)) == labels.of((2, 0)) == ""
    assert labels.is_prepared
