"""What it costs to know which codes may follow, and to choose among them.

    python benchmarks/index.py [--quick] [--rounds 5]

Microseconds per beam and level of a whole step of a search for 64 users with 20 beams each:
children, scores, the best. Hugging Face's `PrefixConstrainedLogitsProcessor` is timed alone,
without the choice that follows it, and without building its trie. "STATIC's technique" is our own
re-implementation of Vectorizing the Trie (arXiv 2602.22647): dense tables for two levels, then
transitions in CSR form, read in slices as wide as the level's widest node. "brute force" compares
every prefix that might follow with all items, as GRID does: 4 beams of the smallest catalog alone.
"""

import gc
import statistics
from typing import Any, NamedTuple

import hugging_face
import rounds
import torch
import workload
from torch import Tensor
from transformers import PrefixConstrainedLogitsProcessor

from bbqrec.decoding import PrefixIndex, beam_search

BATCH, BEAM_WIDTH = 64, 20
NUM_LEVELS, CODEBOOK_SIZE = workload.NUM_LEVELS, workload.CODEBOOK_SIZE
LARGEST_TRIE = 1_000_000  # items; dictionaries of ten times as many would not fit


class Recorder:
    """A session of random scores that marks when the search works on its own.

    Marks alternate: begin and end of the search's step at level 0, at level 1, and so on.
    """

    def __init__(self, log_probs: list[Tensor]) -> None:
        self.log_probs = log_probs
        self.level = 0
        self.marks: list[float] = []

    def first(self) -> Tensor:
        self.marks.append(rounds.clock())
        return self.log_probs[0][:, 0]

    def extend(self, parents: Tensor, codes: Tensor) -> Tensor:
        self.marks.append(rounds.clock())
        self.level += 1
        log_probs = self.log_probs[self.level][:, : parents.shape[1]]
        self.marks.append(rounds.clock())
        return log_probs


def our_steps(index: PrefixIndex, log_probs: list[Tensor]) -> tuple[list[float], Tensor, Tensor]:
    """Seconds of each level, the scores found and the items."""
    recorder = Recorder(log_probs)
    ranking = beam_search(recorder, index, beam_width=BEAM_WIDTH)
    marks = [*recorder.marks, rounds.clock()]
    taken = [end - begin for begin, end in zip(marks[::2], marks[1::2], strict=True)]
    return taken, ranking.scores, ranking.items


def random_log_probs() -> list[Tensor]:
    """Per level what a model might say of every beam's next code."""
    shape = (BATCH, BEAM_WIDTH, CODEBOOK_SIZE)
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).log_softmax(-1) for _ in range(NUM_LEVELS)]


class Transitions(NamedTuple):
    """One level in STATIC's form: a dense table of next nodes, or rows of codes and next nodes."""

    table: Tensor | None
    first_edge: Tensor
    codes: Tensor
    next_nodes: Tensor
    widest: int


def static_levels(index: PrefixIndex) -> list[Transitions]:
    levels = []
    for depth, level in enumerate(index.levels):
        parents = torch.repeat_interleave(level.first_edge.diff())
        codes, next_nodes = level.codes.long(), torch.arange(level.num_edges)
        table = None
        if depth < 2:
            table = torch.full((level.num_nodes, CODEBOOK_SIZE), -1)
            table[parents, codes] = next_nodes
        spare = torch.zeros(level.fan_out, dtype=torch.int64)
        codes, next_nodes = torch.cat([codes, spare]), torch.cat([next_nodes, spare])
        levels.append(Transitions(table, level.first_edge, codes, next_nodes, level.fan_out))
    return levels


def static_steps(levels: list[Transitions], log_probs: list[Tensor]) -> tuple[list[float], Tensor]:
    nodes, scores = torch.zeros((BATCH, 1), dtype=torch.int64), torch.zeros((BATCH, 1))
    taken = []
    for level, given in zip(levels, log_probs, strict=True):
        live = given[:, : nodes.shape[1]]
        start = rounds.clock()
        if level.table is not None:
            next_nodes = level.table[nodes]  # (batch, beam, code)
            totals = (scores[..., None] + live).masked_fill_(next_nodes < 0, -torch.inf)
        else:
            first = level.first_edge[nodes].long()
            slot = torch.arange(level.widest)
            edges = first[..., None] + slot
            is_child = slot < (level.first_edge[nodes + 1] - first)[..., None]
            next_nodes = level.next_nodes[edges]
            totals = scores[..., None] + live.gather(2, level.codes[edges])
            totals = totals.masked_fill_(~is_child, -torch.inf)
        top = totals.flatten(1).topk(min(BEAM_WIDTH, totals[0].numel()), dim=1)
        scores, nodes = top.values, next_nodes.flatten(1).gather(1, top.indices)
        taken.append(rounds.clock() - start)
    return taken, scores


def processor_steps(
    processor: PrefixConstrainedLogitsProcessor, prefixes: list[Tensor], log_probs: list[Tensor]
) -> list[float]:
    """Seconds of Hugging Face's processor for beams with the given tokens so far."""
    taken = []
    for tokens, given in zip(prefixes, log_probs, strict=True):
        scores = torch.zeros((len(tokens), NUM_LEVELS * CODEBOOK_SIZE + 2))
        scores[:, -CODEBOOK_SIZE:] = given.flatten(0, 1)[: len(tokens)]
        start = rounds.clock()
        processor(tokens, scores)
        taken.append(rounds.clock() - start)
    return taken


def brute_force_steps(codes: Tensor, chosen: Tensor) -> tuple[list[float], list[Tensor]]:
    """Seconds at each level, as if for all beams, and which codes may follow.

    Args:
        chosen: codes of the items that the beams will end at.
    """
    taken, found = [], []
    every = torch.arange(CODEBOOK_SIZE)[:, None]
    for level in range(NUM_LEVELS):
        prefixes = chosen[:, None, :level].expand(-1, CODEBOOK_SIZE, -1)
        candidates = torch.cat([prefixes, every.expand(len(chosen), -1, -1)], -1)
        start = rounds.clock()
        equal = [(beam[:, None] == codes[:, : level + 1]).all(-1).any(-1) for beam in candidates]
        found.append(torch.stack(equal))  # (beam, code)
        taken.append((rounds.clock() - start) * BATCH * BEAM_WIDTH / len(chosen))
    return taken, found


def measure(num_items: int, report: rounds.Report, repeats: int) -> None:
    ids = workload.clustered_ids(num_items)
    start = rounds.clock()
    index = PrefixIndex.build(ids)
    build_s = rounds.clock() - start
    levels = static_levels(index)
    static_bytes = sum(
        part.numel() * (1 if part is level.codes else 4)
        for level in levels
        for part in level[:4]
        if part is not None
    )
    log_probs = random_log_probs()
    _, found, items = our_steps(index, log_probs)
    _, expected = static_steps(levels, log_probs)
    torch.testing.assert_close(found, expected, msg="the two searches disagree")

    times: dict[str, list[list[float]]] = {"ours": [], "STATIC's technique": []}
    if num_items <= LARGEST_TRIE:
        allowed = hugging_face.allowed_by(hugging_face.build_trie(ids))
        processor = PrefixConstrainedLogitsProcessor(allowed, BEAM_WIDTH)
        tokens = torch.nn.functional.pad(ids.tokens[items.flatten()], (1, 0))
        roots = tokens.view(*items.shape, -1)[:, :1].flatten(0, 1)
        prefixes = [roots[:, :1], *(tokens[:, : depth + 1] for depth in range(1, NUM_LEVELS))]
        processors = [PrefixConstrainedLogitsProcessor(allowed, 1), *[processor] * 3]
        times["Hugging Face processor"] = []
    has_brute_force = num_items == workload.NUM_ITEMS and not report.options.quick
    codes, chosen = ids.codes, ids.codes[items[:4, 0]]
    if has_brute_force:
        times["brute force"] = []
        for depth, is_valid in enumerate(brute_force_steps(codes, chosen)[1]):
            begun = torch.nn.functional.pad(ids.tokens[items[:4, 0]][:, :depth], (1, 0))
            number = torch.tensor([len(allowed(0, prefix)) for prefix in begun])
            torch.testing.assert_close(is_valid.sum(1), number, msg="brute force disagrees")
    gc.collect()
    gc.freeze()  # a collection would walk all dictionaries of the trie in the midst of a round
    for _ in range(repeats + 1):  # the first warms up
        times["ours"].append(our_steps(index, log_probs)[0])
        times["STATIC's technique"].append(static_steps(levels, log_probs)[0])
        if num_items <= LARGEST_TRIE:
            times["Hugging Face processor"].append(
                [
                    processor_steps(p, [prefix], [given])[0]
                    for p, prefix, given in zip(processors, prefixes, log_probs, strict=True)
                ]
            )
        if has_brute_force:
            times["brute force"].append(brute_force_steps(codes, chosen)[0])
    mask = torch.rand(num_items, generator=torch.Generator().manual_seed(1)) < 0.5
    restrict_s = statistics.median(rounds.seconds(lambda: index.restrict(mask)) for _ in range(5))
    new = workload.clustered_ids(1000, seed=1).codes
    add_s = rounds.seconds(lambda: index.add(new))
    once = {
        "build_s": rounds.rounded(build_s),
        "mb": rounds.rounded(index.num_bytes / 1e6),
        "bytes_per_item": rounds.rounded(index.num_bytes / num_items),
        "static_mb": rounds.rounded(static_bytes / 1e6),
        "restrict_s": rounds.rounded(restrict_s),
        "add_1000_s": rounds.rounded(add_s),
    }
    if report.options.quick:
        totals = {name: [sum(taken[1:]) for taken in all_[1:]] for name, all_ in times.items()}
        ratio = rounds.ratio(totals["Hugging Face processor"], totals["ours"])["ratio"]
        report.require("the index over levels 2 to 4", ratio, 15)
    for level in range(1, NUM_LEVELS):  # the first has one node: nothing to look up
        by_name = {name: [taken[level] for taken in all_[1:]] for name, all_ in times.items()}
        row: dict[str, Any] = {"items": num_items, "level": level + 1}
        row["fan_out"] = index.levels[level].fan_out
        for name, taken in by_name.items():
            row[f"us, {name}"] = rounds.rounded(
                statistics.median(taken) / (BATCH * BEAM_WIDTH) * 1e6
            )
        for name, taken in list(by_name.items())[1:]:
            row[f"x, {name}"] = rounds.ratio(taken, by_name["ours"])["ratio"]
        report.row(**row, **(once if level == 1 else {}))


def main() -> None:
    found = rounds.options(__doc__, rounds=9)
    report = rounds.Report("index", found)
    for num_items in (12_101,) if found.quick else (12_101, 100_000, 1_000_000, 10_000_000):
        measure(num_items, report, found.rounds)
    report.close()


if __name__ == "__main__":
    main()
