"""How long one user waits: batches of 1, beams of 20, the slow requests too.

    python benchmarks/latency.py [--rounds 20]

A round asks each alternative for one user after the other; percentiles are over single requests.
"""

import statistics

import rounds
import torch
import workload
from decode import BASELINE, MODELS, Baseline, search

from bbqrec.decoding import PrefixIndex

BEAM_WIDTH, REQUESTS = 20, 5


def main() -> None:
    found = rounds.options(__doc__, rounds=20)
    report = rounds.Report("latency", found)
    ids = workload.clustered_ids()
    index = PrefixIndex.build(ids)
    models = {name: workload.random_model(config, ids) for name, config in MODELS.items()}
    baseline = Baseline(models["exact"], ids)
    users = [workload.histories(1, padded=False, seed=seed) for seed in range(REQUESTS)]
    alternatives = {
        BASELINE: lambda items, lengths: baseline.search(
            items, lengths, BEAM_WIDTH, is_constrained=True
        )
    }
    for name, model in models.items():
        for precision in ("fp32", "bf16"):
            alternatives[f"{name}, {precision}"] = lambda items, lengths, m=model, p=precision: (
                search(m, index, items, lengths, BEAM_WIDTH, p)
            )
    taken: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(found.rounds + 1):
        for name, ask in alternatives.items():
            for user in users:
                seconds = rounds.seconds(lambda ask=ask, user=user: ask(*user))
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
