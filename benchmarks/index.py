"""What it costs to know which codes may follow: the prefix index against a trie of dictionaries.

    python benchmarks/index.py [--quick] [--device cuda] [--rounds 7]

Prints one JSON line per catalog and level, then a Markdown table. Both sides do the whole step
of a search for the same beams: look up the children, add their scores, keep the best. The
alternatives take turns within each round; the figures are medians over rounds.
"""

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bbqrec.decoding import PrefixIndex, beam_search
from bbqrec.semantic_ids import SemanticIds

NUM_LEVELS, CODEBOOK_SIZE = 4, 256
BATCH, BEAM_WIDTH = 64, 20

Trie = dict[int, Any]


class Recorder:
    """A session of random scores that marks when the search works on its own.

    Marks alternate: begin and end of the search's step at level 0, at level 1, and so on.
    """

    def __init__(self, log_probs: list[Tensor]) -> None:
        self.log_probs = log_probs
        self.level = 0
        self.marks: list[float] = []

    def mark(self) -> None:
        if self.log_probs[0].is_cuda:
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())

    def first(self) -> Tensor:
        self.mark()
        return self.log_probs[0][:, 0]

    def extend(self, parents: Tensor, codes: Tensor) -> Tensor:
        self.mark()
        self.level += 1
        log_probs = self.log_probs[self.level][:, : parents.shape[1]]
        self.mark()
        return log_probs


def clustered_ids(num_items: int, seed: int) -> SemanticIds:
    """Codes as a residual quantizer gives them: prefixes shared unequally, IDs distinct."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.randn((NUM_LEVELS, CODEBOOK_SIZE), generator=generator).exp()
    found = torch.zeros((0, NUM_LEVELS), dtype=torch.int64)
    while len(found) < num_items:
        columns = [
            torch.multinomial(row, num_items, replacement=True, generator=generator)
            for row in share
        ]
        found = torch.unique(torch.cat([found, torch.stack(columns, 1)]), dim=0)
    order = torch.randperm(len(found), generator=generator)[:num_items]
    return SemanticIds(found[order], (CODEBOOK_SIZE,) * NUM_LEVELS)


def build_trie(ids: SemanticIds) -> Trie:
    root: Trie = {}
    for codes in ids.codes.tolist():
        node = root
        for code in codes:
            node = node.setdefault(code, {})
    return root


def trie_step(
    nodes: list[list[Trie]], scores: Tensor, log_probs: Tensor, width: int
) -> tuple[list[list[Trie]], Tensor]:
    """As `prefix_allowed_tokens_fn` works: ask every beam's node for its codes, mask the rest."""
    mask = torch.full_like(log_probs, -torch.inf)
    for user, beams in enumerate(nodes):
        for beam, node in enumerate(beams):
            mask[user, beam, list(node)] = 0
    totals = (scores[..., None] + log_probs + mask).flatten(1)
    top = totals.topk(min(width, totals.shape[1]), dim=1)
    chosen = [
        [nodes[user][place // CODEBOOK_SIZE].get(place % CODEBOOK_SIZE, {}) for place in places]
        for user, places in enumerate(top.indices.tolist())
    ]
    return chosen, top.values


def measure(num_items: int, *, rounds: int, device: str) -> list[dict[str, Any]]:
    ids = clustered_ids(num_items, seed=0)
    build_s, index = timed(lambda: PrefixIndex.build(ids))
    index = index.to(device)
    tracemalloc.start()
    trie = build_trie(ids)
    trie_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    generator = torch.Generator().manual_seed(1)
    shape = (BATCH, BEAM_WIDTH, CODEBOOK_SIZE)
    log_probs = [torch.randn(shape, generator=generator).log_softmax(-1) for _ in range(NUM_LEVELS)]
    on_device = [scores.to(device) for scores in log_probs]
    ours: list[list[float]] = [[] for _ in range(NUM_LEVELS)]
    theirs: list[list[float]] = [[] for _ in range(NUM_LEVELS)]
    for _ in range(rounds + 1):  # the first warms up
        recorder = Recorder(on_device)
        ranking = beam_search(recorder, index, beam_width=BEAM_WIDTH)
        recorder.mark()
        for level in range(NUM_LEVELS):
            ours[level].append(recorder.marks[2 * level + 1] - recorder.marks[2 * level])

        nodes, scores = [[trie]] * BATCH, torch.zeros((BATCH, 1))
        for level in range(NUM_LEVELS):
            live = log_probs[level][:, : scores.shape[1]]
            start = time.perf_counter()
            nodes, scores = trie_step(nodes, scores, live, BEAM_WIDTH)
            theirs[level].append(time.perf_counter() - start)
    torch.testing.assert_close(ranking.scores.cpu(), scores, msg="the two searches disagree")
    return [
        {
            "items": num_items,
            "level": level + 1,
            "fan_out": index.levels[level].fan_out,
            "us_per_beam": microseconds(ours[level], level),
            "trie_us_per_beam": microseconds(theirs[level], level),
            "ratio": round(
                statistics.median(
                    b / a for a, b in zip(ours[level][1:], theirs[level][1:], strict=True)
                ),
                1,
            ),
            "build_s": round(build_s, 3),
            "mb": round(index.num_bytes / 1e6, 2),
            "trie_mb": round(trie_bytes / 1e6, 1),
            "device": device,
            "threads": torch.get_num_threads(),
        }
        for level in range(NUM_LEVELS)
    ]


def microseconds(seconds: list[float], level: int) -> float:
    beams = BATCH * (1 if level == 0 else BEAM_WIDTH)
    return round(statistics.median(seconds[1:]) / beams * 1e6, 2)


def timed(function: Callable[[], PrefixIndex]) -> tuple[float, PrefixIndex]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10k and 100k items, 3 rounds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = (10_000, 100_000) if arguments.quick else (10_000, 100_000, 1_000_000)
    rounds = 3 if arguments.quick else arguments.rounds
    rows = []
    for num_items in sizes:
        for row in measure(num_items, rounds=rounds, device=arguments.device):
            rows.append(row)
            print(json.dumps(row), flush=True)
    names = list(rows[0])
    print("\n| " + " | ".join(names) + " |\n|" + " ---: |" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in names) + " |")
    slowest = min(row["ratio"] for row in rows if row["level"] > 1)
    if slowest < 5:
        sys.exit(f"the index is only {slowest} times as fast as a Python trie; expected 5 or more")


if __name__ == "__main__":
    main()
