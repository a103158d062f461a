"""How search scales with catalog, beam and batch, and what memory it takes.

    python benchmarks/scaling.py [--rounds 5]

"exact" and "fast" as in decode.py, in float32, along one axis at a time. `working_mb` is the most
that a call takes beyond what was there before it, `held_mb` what stays between calls: weights,
tables and the index. Item vectors of "fast" are sums of code vectors alone here, since a vector for
each of 10 million items would take 5 GB. Hugging Face is asked as far as memory allows.
"""

import statistics
from collections.abc import Callable
from typing import Any

import memory
import rounds
import workload
from decode import BASELINE, Baseline, check_equality, search

from bbqrec.decoding import PrefixIndex
from bbqrec.recommender import SequenceModel

MODELS = {"exact": workload.EXACT, "fast": workload.FAST.model_copy(update={"use_id": False})}
CATALOGS = (12_101, 100_000, 1_000_000, 10_000_000)
BEAMS, BATCHES = (10, 20, 50, 100, 200), (1, 8, 64, 256, 1024)
BEAM_WIDTH, BATCH, BATCH_OF_BEAMS = 20, 32, 8
LARGEST_TRIE, LARGEST_BATCH = 1_000_000, 64  # of Hugging Face
NO_TRIE = "its trie of Python dictionaries would take 3.5 GB"
NO_BATCH = "keys and values for every beam of every user would take 5 GB and more"


class Searched:
    """A catalog with its index, our two models and, where there is room, the baseline."""

    def __init__(self, num_items: int) -> None:
        ids = workload.clustered_ids(num_items)
        self.index = PrefixIndex.build(ids)
        self.models = {name: workload.random_model(c, ids) for name, c in MODELS.items()}
        self.held_mb = {
            name: (self.index.num_bytes + 4 * num_items + num_bytes(model)) / 1e6
            for name, model in self.models.items()
        }
        self.baseline: Baseline | None = None
        if num_items <= LARGEST_TRIE:
            self.baseline, grown = memory.held_mb(lambda: Baseline(self.models["exact"], ids))
            self.held_mb[BASELINE] = grown

    def measure(self, report: rounds.Report, place: dict[str, int], why_not: str | None) -> None:
        """Rows for one point of one axis.

        Args:
            why_not: the baseline is left out, and for what reason.
        """
        axis, value = next(iter(place.items()))
        beam_width, batch = place.get("beam", BEAM_WIDTH), place.get("batch", BATCH)
        batch = BATCH_OF_BEAMS if axis == "beam" else batch
        items, lengths = workload.histories(batch, padded=False)
        alternatives: dict[str, Callable[[], Any]] = {}
        row: dict[str, Any] = {"axis": axis, "value": value}
        if why_not is None:
            baseline = self.baseline
            assert baseline is not None
            alternatives[BASELINE] = lambda: baseline.search(items, lengths, beam_width)
        else:
            report.row(**row, alternative=BASELINE, left_out=why_not)
        for name, model in self.models.items():
            alternatives[name] = lambda m=model: search(m, self.index, items, lengths, beam_width)
        times, working_mb = rounds.interleave(alternatives, report.options.rounds)
        for name, taken in times.items():
            found = {"users_per_s": rounds.rounded(batch / statistics.median(taken))}
            if BASELINE in times:
                found |= rounds.ratio(times[BASELINE], taken)
            found["working_mb"] = working_mb[name]
            if axis == "items":
                found["held_mb"] = rounds.rounded(self.held_mb[name])
            report.row(**row, alternative=name, **found)


def num_bytes(model: SequenceModel) -> int:
    """Weights and tables."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main() -> None:
    found = rounds.options(__doc__)
    report = rounds.Report("scaling", found)
    for num_items in CATALOGS[:1] if found.quick else CATALOGS:
        searched = Searched(num_items)
        if searched.baseline is not None:
            check_equality(searched.baseline, searched.index, BEAM_WIDTH)
        if num_items == CATALOGS[0]:
            for beam_width in BEAMS[:2] if found.quick else BEAMS:
                searched.measure(report, {"beam": beam_width}, None)
            for batch in BATCHES[:2] if found.quick else BATCHES:
                why_not = NO_BATCH if batch > LARGEST_BATCH else None
                searched.measure(report, {"batch": batch}, why_not)
        why_not = NO_TRIE if searched.baseline is None else None
        searched.measure(report, {"items": num_items}, why_not)
    report.close()


if __name__ == "__main__":
    main()
