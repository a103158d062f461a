"""Where the time goes in float32: shares of a search and of a training step, by kind of work.

    python benchmarks/breakdown.py [--rounds 5]

Taken by PyTorch's profiler; "floor" is the share of the time that the necessary arithmetic would
take at the speed of a large product of matrices, so what is above it in "products" was lost to
their shapes. "between" is what the profiler saw no operation in: Python.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import rounds
import torch
import workload
from decode import search
from torch.profiler import ProfilerActivity, profile
from train import batch, code_loss, step

from bbqrec.decoding import PrefixIndex

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


def main() -> None:
    found = rounds.options(__doc__)
    report = rounds.Report("breakdown", found)
    ids = workload.clustered_ids()
    index = PrefixIndex.build(ids)
    model = workload.random_model(workload.EXACT, ids)
    for users, beam_width in ((32, 10),) if found.quick else ((32, 10), (32, 20), (1, 20)):
        items, lengths = workload.histories(users, padded=False)

        def run(
            items: torch.Tensor = items, lengths: torch.Tensor = lengths, width: int = beam_width
        ) -> None:
            search(model, index, items, lengths, width)

        flops = users * workload.search_flops(workload.EXACT, beam_width)
        _row(report, f"exact search, {users} users, beams of {beam_width}", run, flops)
    items, targets = batch(8 if found.quick else 64)
    trained = workload.random_model(workload.ONE_PASS, ids)
    flops = len(items) * workload.training_flops(workload.ONE_PASS)
    run = step(trained, lambda: code_loss(trained, items, targets), "fp32")
    _row(report, f"training step in one pass, {len(items)} users", run, flops)
    report.close()


def _row(report: rounds.Report, work: str, run: Callable[[], None], flops: float) -> None:
    times, _ = rounds.interleave({work: run}, report.options.rounds)
    seconds = min(times[work])
    floor = f"{100 * report.floor_s(flops) / seconds:.0f}%"
    report.row(
        work=work,
        ms=rounds.rounded(1e3 * seconds),
        floor=floor,
        **shares(run, report.options.rounds),
    )


if __name__ == "__main__":
    main()
