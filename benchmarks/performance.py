"""Write docs/performance.md from the results that `make bench` left in docs/performance.

python benchmarks/performance.py
"""

import json
from pathlib import Path
from typing import Any

import goals
import plots
import rounds

from bbqrec.storage import write_bytes

BUSY = 0.9  # of a processor
TARGET = rounds.FOLDER.parent / "performance.md"
ORDER = (
    "decode",
    "breakdown",
    "scaling",
    "history",
    "index",
    "train",
    "tokenizer",
    "latency",
    "end_to_end",
    "outside",
)
HEAD = """# Performance

Written by `make bench` from `docs/performance/*.jsonl`. Every table comes from one process in which
the alternatives took turns round by round; `ratio` is the median of the rounds' ratios to the first
alternative, beside it the smallest and the largest. Times are those of the processor for this one
thread: what other work on the machine takes away does not count. `share_of_floor` compares with the
time that the necessary arithmetic takes at the speed of a product of 1024 x 1024 matrices on this
machine. `working_mb` is the most memory that a call takes beyond weights, index and Python itself.
Equality comes before speed: a script stops where the alternatives disagree. Weights are random and
sizes those of Amazon Beauty (12,101 items, four codes of 256) where nothing else is said; nothing
here says how well a model ranks. What torch-rechub and cornac publish as TIGER is timed in
`outside`, in an environment of its own (its command is in the script).

On an AMD processor the largest single gain in float32 is the library: PyTorch multiplies with MKL,
which uses half the width of its AVX-512 units, and bbqrec with oneDNN, which PyTorch brings along.
Hugging Face's rows are PyTorch's own, as its users get them. What is left above the floor is in
`breakdown`: attention, whose products are many and small, work element by element ("others"), and
the time between operations ("between"), a quarter of what a single user waits for.
"""
PICTURES = {
    "throughput": "Users per second, against the size of the catalog, the width of the beam, the "
    "batch and the length of the history: Hugging Face, the same model here, the preset fast",
    "memory": "Megabytes that a call takes, against the same four",
}


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
    if about["cpu_share"] < BUSY:
        steady += f" Other work ran beside it: this had {about['cpu_share']:.0%} of a processor."
    allocator = "freed memory kept" if about["keeps_heap"] else "the default allocator"
    peers = ", ".join(f"{name} {about[name]}" for name in rounds.PEERS if name in about)
    return (
        f"{about['cpu']}, {about['threads']} thread, {allocator}, {about['rounds']} rounds, torch "
        f"{about['torch']}, {peers}; products {gflops['fp32']:.0f} GFLOP/s in fp32 and "
        f"{gflops['bf16']:.0f} in bf16, {about['probe_change']:.1%} changed at the end.{steady}"
    )


def path_of(name: str) -> Path:
    return rounds.FOLDER / f"{name}.jsonl"


def results() -> dict[str, list[dict[str, Any]]]:
    """The rows of every script that has been run."""
    return {
        name: [json.loads(line) for line in path_of(name).read_text().splitlines()[1:]]
        for name in ORDER
        if path_of(name).is_file()
    }


def pictures() -> str:
    """Both pictures of scaling, or nothing before scaling.py was run."""
    drawn = [path.stem for path in plots.draw(rounds.FOLDER)]
    images = [f"![{PICTURES[name]}](performance/{name}.svg)" for name in drawn]
    return "\n\n".join(["## How it scales", *images]) if images else ""


def main() -> None:
    found = results()
    parts = [HEAD.rstrip(), "## Goals", rounds.table(goals.goal_rows(found)), pictures()]
    parts += [section(name) for name in found]
    write_bytes(TARGET, ("\n\n".join(part for part in parts if part) + "\n").encode())


if __name__ == "__main__":
    main()
