"""How long one user waits: batches of 1, beams of 20, the slow requests too.

    python benchmarks/latency.py [--rounds 20]

A round asks each alternative for one user after the other; percentiles are over single requests.
The alternatives are those of decode.py, checked as there before anything is timed.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace

import rounds
import torch
import workload
from decode import BASELINE, BASELINE_BF16, MODELS, Searched, search

from bbqrec.precision import Precision

BEAM_WIDTH, REQUESTS = 20, 5


def alternatives(searched: Searched) -> dict[str, Callable[[int], object]]:
    """Calls that answer the user of that number."""
    users = [workload.histories(1, padded=False, seed=seed) for seed in range(REQUESTS)]
    longer = [workload.shipped_histories(1, seed=seed) for seed in range(REQUESTS)]
    index, baseline = searched.index, searched.baseline
    found: dict[str, Callable[[int], object]] = {
        BASELINE: lambda user: baseline.search(*users[user], BEAM_WIDTH),
        BASELINE_BF16: lambda user: baseline.search(*users[user], BEAM_WIDTH, precision="bf16"),
    }
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for name, model in searched.models.items():
        for p in precisions:
            found[f"{name}, {p}"] = lambda user, m=model, p=p: search(
                m, index, *users[user], BEAM_WIDTH, p
            )
    for name, ranker in searched.rankers.items():
        for p in precisions:
            found[f"{name}, {p}"] = lambda user, r=replace(ranker, precision=p): r.rank(
                longer[user], BEAM_WIDTH, exclude_seen=False
            )
    return found


def main() -> None:
    found = rounds.options(__doc__, rounds=20)
    report = rounds.Report("latency", found)
    searched = Searched(REQUESTS, tuple(MODELS))
    searched.check(BEAM_WIDTH, num_users=8)
    asked = alternatives(searched)
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for number in range(found.rounds + 1):
        for name, ask in asked.items():
            for user in range(REQUESTS):
                seconds = rounds.seconds(lambda ask=ask, user=user: ask(user))
                if number:  # the first round warms up
                    taken[name].append(seconds)
    for name, times in taken.items():
        p50, p90, p99 = torch.tensor(times).quantile(torch.tensor([0.5, 0.9, 0.99])).tolist()
        of_rounds = [
            statistics.median(times[start : start + REQUESTS])
            for start in range(0, len(times), REQUESTS)
        ]
        of_baseline = [
            statistics.median(taken[BASELINE][start : start + REQUESTS])
            for start in range(0, len(times), REQUESTS)
        ]
        report.row(
            alternative=name,
            p50_ms=rounds.rounded(p50 * 1e3),
            p90_ms=rounds.rounded(p90 * 1e3),
            p99_ms=rounds.rounded(p99 * 1e3),
            **rounds.ratio(of_baseline, of_rounds),
        )
    report.close()


if __name__ == "__main__":
    main()
