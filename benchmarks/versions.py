"""What a change gained: this version of bbqrec and another one in turns, row by row.

    git worktree add /tmp/before HEAD~10
    python benchmarks/versions.py /tmp/before [--rounds 9]

Each version is a process of its own with the models of its own benchmarks. They take turns, so
that a busy machine is busy for both. Times are those of the processor for one thread; `ratio` is
how many times as fast this version is. Nothing is checked for equality: the tests do that.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[1]
SHIPPED = "preset fast, as shipped"
SEARCHES = [
    (name, precision, beams, users)
    for users, beams in ((1, 20), (32, 20))
    for name in (SHIPPED, "fast", "fast, as wide as T5", "generate, no neighbors", "exact")
    for precision in (("fp32",) if users == 1 else ("fp32", "bf16"))
]
STEPS = [(name, p) for name in ("fast", "fast, as wide as T5") for p in ("fp32", "bf16")]
ENOUGH_S = 0.05  # of one measurement


class Version:
    """A process with one version's code."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), str(root), "--answer"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]

    def seconds(self, row: tuple[Any, ...]) -> float:
        self._process.stdin.write(json.dumps(row) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def answer(root: Path) -> None:
    """Time the rows that are asked for, one a line, with the code under `root`."""
    sys.path[:0] = [str(root / "benchmarks"), str(root / "src")]
    import decode
    import torch
    import train
    import workload

    from bbqrec.decoding import PrefixIndex

    torch.set_num_threads(1)
    ids = workload.clustered_ids()
    index, shipped = PrefixIndex.build(ids), workload.shipped_ranker(ids)
    models = {name: workload.random_model(config, ids) for name, config in decode.MODELS.items()}

    def search(name: str, precision: str, beams: int, users: int) -> Callable[[], object]:
        if name == SHIPPED:
            ranker, asked = replace(shipped, precision=precision), workload.shipped_histories(users)
            return lambda: ranker.rank(asked, beams, exclude_seen=False)
        histories = workload.histories(users, padded=False)
        return lambda: decode.search(models[name], index, *histories, beams, precision)

    def step(name: str, precision: str) -> Callable[[], object]:
        model, batch = workload.random_model(train.MODELS[name], ids), train.batch(64)
        return train.step(model, lambda: train.code_loss(model, *batch), precision)

    for line in sys.stdin:
        row = json.loads(line)
        run = step(*row) if len(row) == 2 else search(*row)
        run()
        taken: list[float] = []
        while len(taken) < 3 or sum(taken) < ENOUGH_S:
            begin = time.process_time()
            run()
            taken.append(time.process_time() - begin)
        print(median(taken), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the folder of another version")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.answer:
        answer(found.other)
        return
    before, now = Version(found.other.resolve()), Version(HERE)
    print("| work | before, ms | now, ms | ratio | ratio_min | ratio_max |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in (*SEARCHES, *STEPS):
        turns = [(before.seconds(row), now.seconds(row)) for _ in range(found.rounds)]
        ratios = [a / b for a, b in turns]
        old, new = (1e3 * median(side) for side in zip(*turns, strict=True))
        name = ", ".join(map(str, row[:2]))
        name += f", {row[3]} users" if len(row) > 2 else ", a step of training"
        numbers = (old, new, median(ratios), min(ratios), max(ratios))
        print("|", name, "|", " | ".join(f"{x:.3g}" for x in numbers), "|", flush=True)


if __name__ == "__main__":
    main()
