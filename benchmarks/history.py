"""How search and Hugging Face's search depend on the length of the history, with and without bias.

    python benchmarks/history.py [--rounds 5]

Beams of 20, batches of 8 users, histories of 10 to 200 items; "with similarity" adds the
multi-modal bias (text vectors of 64 dimensions) to the encoder's attention. Before anything is
timed, "exact" must find what Hugging Face finds at every length, and all searches their model's
scores.
"""

import statistics
from collections.abc import Callable

import rounds
import torch
import workload
from decode import BASELINE, Baseline, check_equality, check_scores, search

from bbqrec.decoding import PrefixIndex
from bbqrec.recommender import SimilarityConfig

BATCH, BEAM_WIDTH, LENGTHS = 8, 20, (10, 20, 50, 100, 200)


def main() -> None:
    found = rounds.options(__doc__)
    report = rounds.Report("history", found)
    ids = workload.clustered_ids()
    index = PrefixIndex.build(ids)
    vectors = torch.randn(len(ids), 64, generator=torch.Generator().manual_seed(0))
    models = {}
    for name, config in {"exact": workload.EXACT, "fast": workload.FAST}.items():
        longer = config.model_copy(update={"max_history": max(LENGTHS)})
        models[name] = workload.random_model(longer, ids)
        biased = longer.model_copy(update={"similarity": SimilarityConfig()})
        biased_name = f"{name}, with similarity"
        models[biased_name] = workload.random_model(biased, ids, vectors=vectors)
    baseline = Baseline(models["exact"], ids)
    for longest in (20,) if found.quick else LENGTHS:
        check_equality(baseline, index, BEAM_WIDTH, num_users=BATCH, longest=longest)
        for model in models.values():
            check_scores(model, index, BEAM_WIDTH, longest=longest)
        items, lengths = workload.histories(BATCH, padded=False, longest=longest)
        alternatives: dict[str, Callable[[], object]] = {
            BASELINE: lambda i=items, n=lengths: baseline.search(i, n, BEAM_WIDTH)
        }
        for name, model in models.items():
            alternatives[name] = lambda m=model, i=items, n=lengths: search(
                m, index, i, n, BEAM_WIDTH
            )
        times, working_mb = rounds.interleave(alternatives, found.rounds)
        for name, taken in times.items():
            report.row(
                history=longest,
                alternative=name,
                users_per_s=rounds.rounded(BATCH / statistics.median(taken)),
                **rounds.ratio(times[BASELINE], taken),
                working_mb=working_mb[name],
            )
    report.close()


if __name__ == "__main__":
    main()
