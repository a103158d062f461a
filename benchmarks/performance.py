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

Products are multiplied by oneDNN, which PyTorch brings along, and Hugging Face's by PyTorch's own
MKL, as its users get them. On the processor of these tables (108 GFLOP/s in float32, Zen 4) the two
are equally fast; on newer AMD processors (Zen 5) MKL uses half the width of the AVX-512 units, and
ratios in float32 are larger. What is left above the floor is in `breakdown`: attention,
whose products are many and small, work element by element ("others"), and the time between
operations ("between"), a quarter of what a single user waits for and half of what "fast" takes.

Rows named "fast" are a search that generates semantic IDs, with the model of that preset: one
encoder layer, 2 heads, `d_ff` 512, where T5 has 4 + 4 layers, 6 heads and 1,024, and without
content and bias. Much of their ratio is the smaller model: a search takes 12 / 22 / 51 MFLOP a user
at beams of 10 / 20 / 50. "Fast, as wide as T5" has T5's encoder and takes 82 / 100 / 153; the goals
of "fast" were set with a prototype of 82 / 88 / 106. What `bbqrec run` trains by default does
not search: it ranks all items by the dense score, with content, neighbors, repeats and bias, and
reads 50 items: rows "preset fast, as shipped". "Preset generate, as shipped" ranks by a walk
down the tree of semantic IDs that knows all this, too, and so scores all items.
"""
GAPS = """## Why some goals are not reached

What is known of each; `docs/log.md` has the attempts.

- **Exact search** (float32 and bf16) reaches 65 to 75 % of its floor in float32 and half of it in
  bf16. Attention is a fifth; PyTorch's fused kernel takes longer than the explicit form in bf16.
  Each beam's ancestors are gathered anew for every layer and level; attention over a masked tree of
  all beams was two to four times slower. The logits stay in float32 on purpose: in bf16 codes would
  tie. Searches of few beams compare with the encoded places themselves rather than with keys and
  values made of them, which gained a tenth at beams of 10 and would lose at 50.
- **"Fast, as wide as T5"** writes codes with a wider network than the prototype that the goals come
  from, half as much work again at beams of 50 and a quarter more in training, and reaches
  half to two thirds of its floor. The preset itself is narrower and reaches the goals; a narrower
  network in a wide model is a setting (`d_ff`) that the two share.
- **Training in one pass** (float32 and bf16). A sixth of the step is work element by element, a
  seventh attention, in its explicit form, since the fused kernel knows no dropout on a CPU.
  `torch.compile` lost on prototypes: more than a minute to compile, then slower steps.
- **One user's wait**. A quarter of the exact search passes between operations, many and small, and
  products of so few rows wait for the weights. Operations are fewer and larger already (keys and
  values in one product, weights prepared once). The arithmetic of "fast" would take a twentieth of
  its 2.8 ms; it waits for Python and for calls.
- **A step of the index among 10 million items** (1.45 us at level 2, 1.03 and .86 below). `topk` is
  a third, the gather of scores an eighth, then adding integers. Adding masks instead of filling
  them in gained a sixth, adding in place a thirtieth. No gain: dense tables for the first levels
  (they win only where four fifths of the places are used), windows of 16 or of 64 to 256 edges,
  picking rows or runs by their maximum before `topk`, no mask where all places are used.
- **An epoch of RQ-VAE** reaches 73 % of its floor in float32 and 63 % in bf16, where the choice of
  codes stays in float32: rounded, it chose others.

Residual k-means has no goal here: its time means little without the error that it leaves, and the
rows give both. faiss and ours cluster with progressive dimensions, that is on the first principal
components of the residuals, then on ever more; "faiss, plain" goes without.
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
    table = rounds.table(goals.goal_rows(found))
    parts = [HEAD.rstrip(), "## Goals", table, GAPS.rstrip(), pictures()]
    parts += [section(name) for name in found]
    write_bytes(TARGET, ("\n\n".join(part for part in parts if part) + "\n").encode())


if __name__ == "__main__":
    main()
