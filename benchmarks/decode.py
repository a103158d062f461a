"""Constrained beam search against Hugging Face T5 with `prefix_allowed_tokens_fn`.

    python benchmarks/decode.py [--quick] [--rounds 5]

"exact" is the form `paper` with T5's weights; before anything is timed its lists must be T5's,
item for item, for full and for padded histories. "fast" is the preset: one token per
item, one encoder layer, a small network per level; "as wide as T5" gives it T5's encoder.
"generate" is that preset: a walk down the tree of semantic IDs, the history's items as repeats.
Histories of 20 items, batches of 32 users.
"""

import statistics
from collections.abc import Callable
from typing import Any

import hugging_face
import rounds
import torch
import workload

from bbqrec.decoding import PrefixIndex, beam_search
from bbqrec.precision import Precision, autocast
from bbqrec.ranking import Ranking
from bbqrec.recommender import SequenceModel
from bbqrec.semantic_ids import SemanticIds

BATCH = 32
BASELINE = "Hugging Face, trie"
WIDE = "fast, as wide as T5"
MODELS = {
    "exact": workload.EXACT,
    "fast": workload.FAST,
    WIDE: workload.WIDE_FAST,
    "generate": workload.GENERATE,
}


class Baseline:
    """Hugging Face's T5 with the weights of `model`."""

    def __init__(self, model: SequenceModel, ids: SemanticIds) -> None:
        self.model, self.ids = model, ids
        self.t5 = hugging_face.random_t5(workload.EXACT, ids.num_tokens)
        hugging_face.copy_weights(self.t5, model, workload.EXACT)
        self.trie = hugging_face.build_trie(ids)

    def search(
        self, items: torch.Tensor, lengths: torch.Tensor, beam_width: int, *, is_constrained: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (batch, beam, level) and scores, best first."""
        tokens = self.model.history_tokens(items, lengths)
        is_used = torch.arange(tokens.shape[1]) <= (lengths * self.ids.num_levels)[:, None]
        return hugging_face.generate(
            self.t5,
            tokens,
            is_used,
            beam_width=beam_width,
            num_levels=self.ids.num_levels,
            trie=self.trie if is_constrained else None,
        )


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


def check_equality(baseline: Baseline, index: PrefixIndex, beam_width: int) -> None:
    """Same items at every rank, for 32 full histories and 32 of any length from 0."""
    for padded in (False, True):
        items, lengths = workload.histories(32, padded=padded, seed=1)
        found = search(baseline.model, index, items, lengths, beam_width)
        tokens, scores = baseline.search(items, lengths, beam_width, is_constrained=True)
        if not torch.equal(baseline.ids.tokens[found.items], tokens):
            raise SystemExit("the search does not find what Hugging Face finds; nothing is timed")
        torch.testing.assert_close(found.scores, scores, atol=1e-4, rtol=1e-4)


def agreement(one: Ranking, other: Ranking, k: int = 10) -> float:
    """Share of the ten best items that two answers have in common."""
    is_same = one.items[:, :k, None] == other.items[:, None, :k]
    return rounds.rounded(float(is_same.any(2).double().mean()))


def main() -> None:
    found = rounds.options(__doc__)
    report = rounds.Report("decode", found)
    ids = workload.clustered_ids()
    index = PrefixIndex.build(ids)
    models = {name: workload.random_model(config, ids) for name, config in MODELS.items()}
    baseline = Baseline(models["exact"], ids)
    items, lengths = workload.histories(BATCH, padded=False)
    for beam_width in (20,) if found.quick else (10, 20, 50):
        check_equality(baseline, index, beam_width)
        alternatives: dict[str, Callable[[], Any]] = {
            BASELINE: lambda w=beam_width: baseline.search(items, lengths, w, is_constrained=True)
        }
        if beam_width == 20 and not found.quick:
            alternatives["Hugging Face, unconstrained"] = lambda w=beam_width: baseline.search(
                items, lengths, w, is_constrained=False
            )
        for name, model in models.items():
            for precision in ("fp32", "bf16"):
                alternatives[f"{name}, {precision}"] = lambda m=model, w=beam_width, p=precision: (
                    search(m, index, items, lengths, w, p)
                )
        times, working_mb = rounds.interleave(alternatives, found.rounds)
        for label, taken in times.items():
            row = {
                "beam": beam_width,
                "alternative": label,
                "users_per_s": rounds.rounded(BATCH / statistics.median(taken)),
                **rounds.ratio(times[BASELINE], taken),
                "working_mb": working_mb[label],
            }
            name, _, precision = label.rpartition(", ")
            if name in MODELS and name != "generate":
                config = MODELS[name]
                flops = BATCH * workload.search_flops(config, beam_width)
                floor_s = report.floor_s(flops, precision)
                row["share_of_floor"] = rounds.rounded(floor_s / statistics.median(taken))
            if precision == "bf16":
                answers = (alternatives[f"{name}, {p}"]() for p in ("fp32", "bf16"))
                row["top_10_as_fp32"] = agreement(*answers)
            report.row(**row)
            if found.quick and label == "exact, fp32":
                report.require("constrained search at beam 20", row["ratio"], 2.5)
    report.close()


if __name__ == "__main__":
    main()
