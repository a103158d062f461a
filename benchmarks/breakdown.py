"""Where the time goes: shares of searches, training steps and an RQ-VAE epoch, by kind of work.

    python benchmarks/breakdown.py [--rounds 5]

Taken by PyTorch's profiler; "floor" is the share of the time that the necessary arithmetic would
take at the speed of a large product of matrices, so what is above it in "products" was lost to
their shapes. "between" is what the profiler saw no operation in: Python.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import rounds
import workload
from decode import search
from index import BATCH, BEAM_WIDTH, our_steps, random_log_probs
from tokenizer import epoch_flops, our_epoch, planted_features
from torch.profiler import ProfilerActivity, profile
from train import batch, code_loss, step

from bbqrec.decoding import PrefixIndex
from bbqrec.precision import Precision
from bbqrec.recommender import RecommenderConfig

KINDS = {
    "products": ("aten::linear", "aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"),
    "attention": (
        "aten::scaled_dot_product_attention",
        "aten::matmul",
        "aten::bmm",
        "aten::softmax",
        "aten::_softmax_backward_data",
    ),
    "norms": ("aten::rms_norm", "aten::linalg_vector_norm", "aten::_fused_rms_norm_backward"),
    "search": (
        *("aten::topk", "aten::gather", "aten::sort", "aten::searchsorted", "aten::cumsum"),
        *("aten::unfold", "aten::masked_fill_", "aten::pad", "aten::index", "aten::log_softmax"),
        "aten::index_select",
    ),
    "casts": ("aten::to", "aten::_to_copy", "aten::copy_"),
    "optimizer": ("aten::_fused_adamw_", "aten::_foreach_norm", "aten::_foreach_mul_"),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
Row = dict[str, Any]


def shares(run: Callable[[], object], times: int) -> Row:
    """Percent of the time in each kind of operation; element-wise work is "others"."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(times):
            run()
    taken: Counter[str] = Counter()
    events = [event for event in profiler.events() if event.name.startswith(("aten::", "mkldnn::"))]
    inside = {id(child) for event in events for child in event.cpu_children}
    for event in events:
        # Within another operation it is part of that one.
        if id(event) not in inside:
            taken[KIND_OF.get(event.name, "others")] += event.cpu_time_total
    whole = max(event.time_range.end for event in events)
    whole -= min(event.time_range.start for event in events)
    taken["between"] = max(0, whole - sum(taken.values()))
    order = (*KINDS, "others", "between")
    return {kind: f"{100 * taken[kind] / whole:.0f}%" for kind in order}


SEARCHES: tuple[tuple[str, RecommenderConfig, Precision, int, int], ...] = (
    ("exact", workload.EXACT, "fp32", 32, 10),
    ("exact", workload.EXACT, "fp32", 32, 20),
    ("exact", workload.EXACT, "fp32", 1, 20),
    ("exact", workload.EXACT, "bf16", 32, 10),
    ("exact", workload.EXACT, "bf16", 32, 20),
    ("fast", workload.FAST, "fp32", 1, 20),
)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def main() -> None:
    found = rounds.options(__doc__)
    report = rounds.Report("breakdown", found)
    quick = found.quick
    ids = workload.clustered_ids()
    index = PrefixIndex.build(ids)
    for name, config, precision, users, beam_width in SEARCHES[:1] if quick else SEARCHES:
        model = workload.random_model(config, ids)
        items, lengths = workload.histories(users, padded=False)
        run = partial(search, model, index, items, lengths, beam_width, precision)
        flops = users * workload.search_flops(config, beam_width)
        work = f"{name} search, {users} users, beams of {beam_width}"
        _row(report, work, run, precision, flops)

    items, targets = batch(8 if quick else 64)
    flops = len(items) * workload.training_flops(workload.ONE_PASS)
    for precision in PRECISIONS[:1] if quick else PRECISIONS:
        trained = workload.random_model(workload.ONE_PASS, ids)
        loss = partial(code_loss, trained, items, targets)
        work = f"training step in one pass, {len(items)} users"
        _row(report, work, step(trained, loss, precision), precision, flops)

    num_items = workload.NUM_ITEMS if quick else 10_000_000
    large = PrefixIndex.build(workload.clustered_ids(num_items))
    run = partial(our_steps, large, random_log_probs())
    work = f"choice of codes, {num_items} items, {BATCH} users, beams of {BEAM_WIDTH}"
    _row(report, work, run, "fp32")

    features = planted_features()
    for precision in PRECISIONS[:1] if quick else PRECISIONS:
        run = our_epoch(features, precision)
        _row(report, "RQ-VAE epoch", run, precision, epoch_flops())
    report.close()


def _row(
    report: rounds.Report,
    work: str,
    run: Callable[[], object],
    precision: Precision,
    flops: float | None = None,
) -> None:
    times, _ = rounds.interleave({work: run}, report.options.rounds)
    seconds = min(times[work])
    row: Row = {"work": work if precision == "fp32" else f"{work}, {precision}"}
    row["ms"] = rounds.rounded(1e3 * seconds)
    if flops is not None:
        row["floor"] = f"{100 * report.floor_s(flops, precision) / seconds:.0f}%"
    report.row(**row, **shares(run, report.options.rounds))


if __name__ == "__main__":
    main()
