"""What every speed benchmark does alike, so that its ratios can be believed.

Alternatives take turns within each round, so that a disturbance of the machine hits all of them;
a ratio is the median of the rounds' ratios, printed with the smallest and the largest. With one
thread, times are the processor's for this process: what other work takes away does not count. A
matrix product of a fixed size is timed before and after: a share of the floor says how close to it
an alternative comes. Results during which the machine itself changed by more than 15 %, or of fewer
rounds than the script asks for, are not kept unless told so (`--force`), and the first are marked.
Threads are fixed, freed memory is kept (or not: `--default-allocator`).
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import memory
import torch

from bbqrec import products
from bbqrec.allocator import keep_heap
from bbqrec.evaluation.environment import environment
from bbqrec.storage import write_bytes

FOLDER = Path(__file__).parent.parent / "docs" / "performance"
MIN_CALLS_S = 0.2  # what is faster is called several times per round
MAX_PROBE_CHANGE = 0.15
PEERS = ("transformers", "vector-quantize-pytorch", "faiss-cpu", "torch-rechub", "cornac")
Times = dict[str, list[float]]


class Measured(NamedTuple):
    """Seconds per call of each alternative in each round, and the memory that a call takes."""

    times: Times
    working_mb: dict[str, float]


def clock() -> float:
    """Seconds: of the processor with one thread, else on the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def options(
    doc: str,
    *,
    rounds: int = 5,
    more: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    keeps_kernels: bool = True,
) -> argparse.Namespace:
    """Parse the command line; fixes the threads and the allocator before any tensor is made.

    Args:
        more: adds options of the script's own.
        keeps_kernels: keep whatever oneDNN compiles: alternatives in turns would push out each
            other's kernels, which nothing does to a program of its own. False where every batch
            has shapes of its own.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little work, loose floors (CI)")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--default-allocator", action="store_true")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the JSON lines")
    parser.add_argument("--force", action="store_true", help="keep results that should not be")
    more(parser)
    found = parser.parse_args()
    found.is_short = found.rounds < rounds
    if keeps_kernels:
        os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "1024"
    found.keeps_heap = not found.default_allocator and keep_heap()
    torch.set_num_threads(found.threads)
    if found.quick:
        found.rounds = min(found.rounds, 3)
    return found


def interleave(alternatives: Mapping[str, Callable[[], object]], rounds: int) -> Measured:
    """Time all alternatives in turn; the first call of each warms up, the next shows its memory."""
    calls, working_mb = {}, {}
    for name, run in alternatives.items():
        run()
        start = clock()
        working_mb[name] = rounded(memory.working_mb(run))
        calls[name] = max(1, int(MIN_CALLS_S / (clock() - start)))
    times: Times = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, run in alternatives.items():
            times[name].append(seconds(run, calls[name]))
    return Measured(times, working_mb)


def seconds(run: Callable[[], object], calls: int = 1) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


def ratio(baseline: list[float], times: list[float]) -> dict[str, float]:
    """How many times faster than the baseline: median over rounds, and the extremes."""
    ratios = [slow / fast for slow, fast in zip(baseline, times, strict=True)]
    return {
        "ratio": rounded(statistics.median(ratios)),
        "ratio_min": rounded(min(ratios)),
        "ratio_max": rounded(max(ratios)),
    }


def rounded(value: float) -> float:
    """Three significant digits, which is more than these numbers repeat."""
    return float(f"{value:.3g}")


@torch.inference_mode()
def gemm_gflops(dtype: torch.dtype) -> float:
    """What the machine reaches on a product of 1024 x 1024 matrices, best of ten; in float32 with
    the library that this package multiplies with."""
    a = torch.randn(1024, 1024).to(dtype)
    products.linear(a, a)
    return 2 * 1024**3 / min(seconds(lambda: products.linear(a, a)) for _ in range(10)) / 1e9


class Report:
    """Rows of one benchmark: printed as JSON lines as they come, then as a Markdown table."""

    def __init__(self, name: str, found: argparse.Namespace) -> None:
        self.name, self.options = name, found
        self.rows: list[dict[str, Any]] = []
        self.too_slow: list[str] = []
        self.start = time.perf_counter(), time.process_time()
        self.probe = self._probe()

    def _probe(self) -> dict[str, float]:
        found = {"fp32": gemm_gflops(torch.float32)}
        if not self.options.quick:  # it takes seconds where a machine does not multiply bf16
            found["bf16"] = gemm_gflops(torch.bfloat16)
        return found

    def floor_s(self, flops: float, precision: str = "fp32") -> float:
        """Seconds that this arithmetic takes at the speed of the probe."""
        return flops / self.probe[precision] / 1e9

    def row(self, **values: Any) -> None:
        self.rows.append(values)
        print(json.dumps(values), flush=True)

    def require(self, what: str, ratio: float, floor: float) -> None:
        """Fail the command, at its end, where a ratio falls below its floor."""
        if ratio < floor:
            self.too_slow.append(f"{what} is {ratio:.3g} times as fast, expected {floor} or more")

    def close(self) -> None:
        """Print the table; write the lines unless quick.

        Exits with 1 if a floor was missed, or if the results are not to be believed.
        """
        after = self._probe()
        change = max(abs(after[name] / self.probe[name] - 1) for name in after)
        wall_s, cpu_s = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        about = {
            "benchmark": self.name,
            "gemm_gflops": {name: rounded(value) for name, value in self.probe.items()},
            "probe_change": rounded(change),
            "cpu_share": rounded(cpu_s / wall_s),
            "is_steady": change <= MAX_PROBE_CHANGE,
            "keeps_heap": self.options.keeps_heap,
            "rounds": self.options.rounds,
            **environment(),
            **{name: found for name in PEERS if (found := _version(name))},
        }
        print(f"\n{json.dumps(about)}\n\n{table(self.rows)}")
        doubts = self._doubts(change)
        if not self.options.quick and not doubts:
            lines = "".join(json.dumps(line) + "\n" for line in (about, *self.rows))
            self.options.out.mkdir(parents=True, exist_ok=True)
            write_bytes(self.options.out / f"{self.name}.jsonl", lines.encode())
        if failures := self.too_slow + doubts:
            sys.exit("\n".join(failures))

    def _doubts(self, change: float) -> list[str]:
        """Why the results must not take the place of those that are kept."""
        if self.options.quick or self.options.force:
            return []
        found = []
        if change > MAX_PROBE_CHANGE:
            found.append(f"the machine's own speed changed by {change:.0%}")
        if self.options.is_short:
            found.append(f"{self.options.rounds} rounds are too few")
        return [f"{why}: nothing is written to {self.options.out} (--force)" for why in found]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one column per name that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
