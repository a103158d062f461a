"""Constrained beam search against Hugging Face T5 with `prefix_allowed_tokens_fn`.

    python benchmarks/decode.py [--quick] [--rounds 5]

"exact" is the form `paper` with T5's weights; before anything is timed its lists must be T5's,
item for item, for full and for padded histories, and the scores of every other search those that
the model gives the items found. "fast" is a search with the model of that preset (one token per
item, one narrow encoder layer, a small network per level) but without content and bias; "as wide
as T5" gives it T5's encoder; "generate, no neighbors" is that preset without neighbors, with which
it scores all items: a walk down the tree of semantic IDs, the history's items as repeats. Histories
of 20 items, 32 users, all at once; Hugging Face's in whatever batches it is fastest with. "preset
fast, as shipped" searches nothing: the dense score of all items, with content, neighbors, repeats
and bias, and histories of 50 items; "preset generate, as shipped" has all that, too, on its walk.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hugging_face
import rounds
import torch
import workload

from bbqrec.decoding import DenseRanker, GenerativeRanker, PrefixIndex, beam_search
from bbqrec.precision import Precision, autocast
from bbqrec.ranking import Histories, Ranking
from bbqrec.recommender import SequenceModel
from bbqrec.semantic_ids import SemanticIds

BATCH = 32
BATCHES = (4, 8, 16, 32)  # of Hugging Face
BASELINE, BASELINE_BF16 = "Hugging Face, trie", "Hugging Face, trie, bf16"
UNCONSTRAINED = "Hugging Face, unconstrained"
SHIPPED, SHIPPED_GENERATE = "preset fast, as shipped", "preset generate, as shipped"
WIDE = "fast, as wide as T5"
MODELS = {
    "exact": workload.EXACT,
    "fast": workload.FAST,
    WIDE: workload.WIDE_FAST,
    "generate, no neighbors": workload.GENERATE,
}


Shipped = DenseRanker | GenerativeRanker


class Baseline:
    """Hugging Face's T5 with the weights of `model`."""

    def __init__(self, model: SequenceModel, ids: SemanticIds) -> None:
        self.model, self.ids = model, ids
        self.t5 = hugging_face.random_t5(workload.EXACT, ids.num_tokens)
        hugging_face.copy_weights(self.t5, model, workload.EXACT)
        self.trie = hugging_face.build_trie(ids)

    @torch.inference_mode()
    def search(
        self,
        items: torch.Tensor,
        lengths: torch.Tensor,
        beam_width: int,
        *,
        is_constrained: bool = True,
        batch: int | None = None,
        precision: Precision = "fp32",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (batch, beam, level) and scores, best first.

        Args:
            batch: how many users are asked for at once; None: all.
        """
        tokens = self.model.history_tokens(items, lengths)
        is_used = torch.arange(tokens.shape[1]) <= (lengths * self.ids.num_levels)[:, None]
        found = []
        with autocast(precision, "cpu"):
            for rows in torch.arange(len(items)).split(batch or len(items)):
                answer = hugging_face.generate(
                    self.t5,
                    tokens[rows],
                    is_used[rows],
                    beam_width=beam_width,
                    num_levels=self.ids.num_levels,
                    trie=self.trie if is_constrained else None,
                )
                found.append(answer)
        sequences, scores = zip(*found, strict=True)
        return torch.cat(sequences), torch.cat(scores)

    def best_batch(
        self, items: torch.Tensor, lengths: torch.Tensor, beam_width: int, precision: Precision
    ) -> int:
        """With how many users at once it answers `items` soonest."""

        def taken(batch: int) -> float:
            run = lambda: self.search(  # noqa: E731
                items, lengths, beam_width, batch=batch, precision=precision
            )
            run()
            return min(rounds.seconds(run) for _ in range(2))

        return min(BATCHES, key=taken)


def search(
    model: SequenceModel,
    index: PrefixIndex,
    items: torch.Tensor,
    lengths: torch.Tensor,
    beam_width: int,
    precision: Precision = "fp32",
) -> Ranking:
    with torch.inference_mode(), autocast(precision, "cpu"):
        return beam_search(model.begin(items, lengths), index, beam_width=beam_width)


def check_equality(
    baseline: Baseline,
    index: PrefixIndex,
    beam_width: int,
    *,
    num_users: int = 32,
    longest: int = workload.NUM_POSITIONS,
) -> None:
    """Same items at every rank, for full histories and for as many of any length from 0."""
    for padded in (False, True):
        items, lengths = workload.histories(num_users, padded=padded, longest=longest, seed=1)
        found = search(baseline.model, index, items, lengths, beam_width)
        tokens, scores = baseline.search(items, lengths, beam_width)
        if not torch.equal(baseline.ids.tokens[found.items], tokens):
            raise SystemExit("the search does not find what Hugging Face finds; nothing is timed")
        torch.testing.assert_close(found.scores, scores, atol=1e-4, rtol=1e-4)


def check_scores(
    model: SequenceModel,
    index: PrefixIndex,
    beam_width: int,
    *,
    longest: int = workload.NUM_POSITIONS,
) -> None:
    """Items found are distinct, best first, and score what they do without a search."""
    for padded in (False, True):
        items, lengths = workload.histories(8, padded=padded, longest=longest, seed=1)
        found = search(model, index, items, lengths, beam_width)
        with torch.inference_mode():
            expected = model.score_items(items, lengths, found.items)
        torch.testing.assert_close(found.scores, expected, atol=1e-4, rtol=1e-4)
        ordered = found.items.sort(1).values
        if (ordered.diff() == 0).any() or (found.scores.diff() > 0).any():
            raise SystemExit("the search finds an item twice, or in no order; nothing is timed")


def check_shipped(ranker: Shipped, histories: Histories, k: int) -> None:
    """Each user alone is answered as among the others, by the best of the scores of all items."""
    found = ranker.rank(histories, k, exclude_seen=False)
    every = ranker.score(histories, torch.arange(workload.NUM_ITEMS))
    best = every.topk(k, dim=1).values
    torch.testing.assert_close(found.scores, best, atol=1e-4, rtol=1e-4)
    size = workload.SHIPPED.max_history
    for user in range(min(4, histories.num_users)):
        items = histories.items[user * size : (user + 1) * size]
        alone = Histories(items, torch.tensor([0, size]))
        scores = ranker.rank(alone, k, exclude_seen=False).scores
        torch.testing.assert_close(scores[0], found.scores[user], atol=1e-4, rtol=1e-4)


def valid_share(ids: SemanticIds, tokens: torch.Tensor) -> float:
    """Share of answers that some item has as its semantic ID."""
    place = ids.num_tokens ** torch.arange(ids.num_levels)
    is_there = torch.isin((tokens * place).sum(-1), (ids.tokens * place).sum(-1))
    return rounds.rounded(float(is_there.double().mean()))


def agreement(one: Ranking, other: Ranking, k: int = 10) -> float:
    """Share of the ten best items that two answers have in common."""
    is_same = one.items[:, :k, None] == other.items[:, None, :k]
    return rounds.rounded(float(is_same.any(2).double().mean()))


class Searched:
    """The catalog, all models over it and the baseline, for batches of users."""

    def __init__(self, num_users: int, names: tuple[str, ...]) -> None:
        ids = workload.clustered_ids()
        self.index = PrefixIndex.build(ids)
        self.models = {name: workload.random_model(MODELS[name], ids) for name in names}
        self.baseline = Baseline(self.models["exact"], ids)
        self.items, self.lengths = workload.histories(num_users, padded=False)
        self.ranked = workload.shipped_histories(num_users)
        self.rankers = {
            SHIPPED: workload.shipped_ranker(ids),
            SHIPPED_GENERATE: workload.shipped_ranker(ids, workload.SHIPPED_GENERATE),
        }

    def check(self, beam_width: int, num_users: int) -> None:
        check_equality(self.baseline, self.index, beam_width, num_users=num_users)
        for model in self.models.values():
            check_scores(model, self.index, beam_width)
        for ranker in self.rankers.values():
            check_shipped(ranker, self.ranked, beam_width)

    def ours(
        self, beam_width: int, precisions: tuple[Precision, ...]
    ) -> dict[str, Callable[[], Ranking]]:
        """A call for each of our models and precisions, and for presets as they are shipped."""
        found: dict[str, Callable[[], Ranking]] = {}
        for name, model in self.models.items():
            for p in precisions:
                found[f"{name}, {p}"] = lambda m=model, p=p: search(
                    m, self.index, self.items, self.lengths, beam_width, p
                )
        for name, ranker in self.rankers.items():
            for p in precisions:
                found[f"{name}, {p}"] = lambda r=replace(ranker, precision=p): r.rank(
                    self.ranked, beam_width, exclude_seen=False
                )
        return found

    def theirs(
        self, beam_width: int, *, is_quick: bool
    ) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
        """A call for each way of Hugging Face, and with how many users at once it asks."""
        ways: dict[str, dict[str, Any]] = {BASELINE: {}}
        if not is_quick:
            ways[BASELINE_BF16] = {"precision": "bf16"}
            if beam_width == 20:
                ways[UNCONSTRAINED] = {"is_constrained": False}
        users = self.items, self.lengths
        found, batches = {}, {}
        for name, way in ways.items():
            batches[name] = len(self.items)
            if not is_quick:
                precision = way.get("precision", "fp32")
                batches[name] = self.baseline.best_batch(*users, beam_width, precision)
            found[name] = lambda name=name, way=way: self.baseline.search(
                *users, beam_width, batch=batches[name], **way
            )
        return found, batches


def main() -> None:
    found = rounds.options(__doc__)
    report = rounds.Report("decode", found)
    quick = found.quick
    names = ("exact", "fast") if quick else tuple(MODELS)
    searched = Searched(BATCH, names)
    for beam_width in (20,) if quick else (10, 20, 50):
        searched.check(beam_width, 8 if quick else 32)
        theirs, batches = searched.theirs(beam_width, is_quick=quick)
        ours = searched.ours(beam_width, ("fp32",) if quick else ("fp32", "bf16"))
        times, working_mb = rounds.interleave({**theirs, **ours}, found.rounds)
        for label, taken in times.items():
            row = {
                "beam": beam_width,
                "alternative": label,
                "users_per_s": rounds.rounded(BATCH / statistics.median(taken)),
                **rounds.ratio(times[BASELINE], taken),
                "working_mb": working_mb[label],
            }
            name, _, precision = label.rpartition(", ")
            if label in batches:
                row["batch"] = batches[label]
            if name in MODELS and name != "generate, no neighbors":
                flops = BATCH * workload.search_flops(MODELS[name], beam_width)
                floor_s = report.floor_s(flops, precision)
                row["share_of_floor"] = rounds.rounded(floor_s / statistics.median(taken))
            if label == UNCONSTRAINED:
                row["valid_ids"] = valid_share(searched.baseline.ids, theirs[label]()[0])
            if label in ours and precision == "bf16":
                answers = (ours[f"{name}, {p}"]() for p in ("fp32", "bf16"))
                row["top_10_as_fp32"] = agreement(*answers)
            report.row(**row)
            if quick and label == "exact, fp32":
                report.require("constrained search at beam 20", row["ratio"], 2.5)
            if quick and name == SHIPPED:
                report.require("what is shipped, beside a search of T5", row["ratio"], 30)
    report.close()


if __name__ == "__main__":
    main()
