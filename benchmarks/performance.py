"""Write docs/performance.md from the results that `make bench` left in docs/performance.

python benchmarks/performance.py
"""

import json
from pathlib import Path
from typing import Any

import rounds

from bbqrec.storage import write_bytes

TARGET = rounds.FOLDER.parent / "performance.md"
ORDER = ("decode", "index", "train", "history", "tokenizer", "latency")
HEAD = """# Performance

Written by `make bench` from `docs/performance/*.jsonl`. Every table comes from one process in which
the alternatives took turns round by round; `ratio` is the median of the rounds' ratios to the first
alternative, beside it the smallest and the largest. `share_of_floor` compares with the time that
the necessary arithmetic takes at the speed of a product of 1024 x 1024 matrices on this machine.
Equality comes before speed: a script stops where the alternatives disagree. Weights are random and
sizes those of Amazon Beauty (12,101 items, four codes of 256); nothing here says how well a model
ranks. torch-rechub and cornac need environments of their own and are left out.
"""


def section(name: str) -> str:
    """One script's table under what it ran on."""
    about, *rows = [json.loads(line) for line in path_of(name).read_text().splitlines()]
    text = [f"## {name}", f"`python benchmarks/{name}.py`: {purpose(name)}", describe(about)]
    return "\n\n".join([*text, rounds.table(rows)])


def purpose(name: str) -> str:
    """The first line of a script's docstring."""
    source = Path(__file__).with_name(f"{name}.py").read_text()
    return source.split('"""', 2)[1].splitlines()[0]


def describe(about: dict[str, Any]) -> str:
    """The circumstances, in a line."""
    gflops = about["gemm_gflops"]
    steady = "" if about["is_steady"] else " **The machine was not steady during this run.**"
    allocator = "freed memory kept" if about["keeps_heap"] else "the default allocator"
    peers = ", ".join(f"{name} {about[name]}" for name in rounds.PEERS if name in about)
    return (
        f"{about['cpu']}, {about['threads']} thread, {allocator}, {about['rounds']} rounds, torch "
        f"{about['torch']}, {peers}; products {gflops['fp32']:.0f} GFLOP/s in fp32 and "
        f"{gflops['bf16']:.0f} in bf16, {about['probe_change']:.1%} changed at the end.{steady}"
    )


def path_of(name: str) -> Path:
    return rounds.FOLDER / f"{name}.jsonl"


def main() -> None:
    sections = [section(name) for name in ORDER if path_of(name).is_file()]
    write_bytes(TARGET, ("\n\n".join([HEAD.rstrip(), *sections]) + "\n").encode())


if __name__ == "__main__":
    main()
