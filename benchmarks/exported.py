"""Does an export recommend what its run does? `python benchmarks/exported.py runs/demo`.

Exports the run into a folder of its own; examples/5_onnx_without_bbqrec.py, numpy and onnxruntime
alone, then answers users of the run by the dense score and by generating semantic IDs. Exits with 1
where an answer has other items than the run's, or a score further off than an export may be.
"""

import argparse
import json
import runpy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from bbqrec.decoding import DenseModel, DenseRanker, GenerativeModel, GenerativeRanker, PrefixIndex
from bbqrec.export import TOLERANCE, export_run
from bbqrec.ranking import Ranker, Ranking
from bbqrec.recommend import Recommender

K = 10
BEAM_WIDTH = 50
EXAMPLE = Path(__file__).parents[1] / "examples" / "5_onnx_without_bbqrec.py"


class Agreement(NamedTuple):
    """Lists of the same items in the same order, and by how much scores differ at most."""

    same_lists: int
    largest_difference: float


def compare(theirs: list[list[tuple[int, float]]], ours: Ranking) -> Agreement:
    same, largest = 0, 0.0
    for answer, items, scores in zip(
        theirs, ours.items.tolist(), ours.scores.tolist(), strict=False
    ):
        same += [item for item, _ in answer] == [item for item in items if item >= 0]
        pairs = zip(answer, scores, strict=False)
        largest = max([largest, *(abs(score - own) for (_, score), own in pairs)])
    return Agreement(same, largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--users", type=int, default=200, help="how many are answered")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recommender = Recommender.from_pretrained(arguments.run)
    model, ids = recommender.model, recommender.semantic_ids
    cases = recommender.dataset.test.histories
    num_users = min(arguments.users, len(cases))
    histories = [
        [recommender.dataset.item_ids[item] for item in cases.row(row)] for row in range(num_users)
    ]
    rankers: dict[str, Ranker] = {}
    if isinstance(model, DenseModel):
        rankers["rank"] = DenseRanker(model, len(ids))
    if isinstance(model, GenerativeModel):
        rankers["generate"] = GenerativeRanker(model, PrefixIndex.build(ids), BEAM_WIDTH)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        export_run(arguments.run, Path(folder) / "exported")
        exported = runpy.run_path(str(EXAMPLE))["Exported"](Path(folder) / "exported")
        for name, ranker in rankers.items():
            ours = ranker.rank(cases.to_histories(), K, exclude_seen=True)
            answers = [getattr(exported, name)(history, K) for history in histories]
            found[name] = compare(answers, ours)
    result = {name: agreement._asdict() for name, agreement in found.items()}
    print(json.dumps({"run": str(arguments.run), "users": num_users, **result}, indent=2))
    is_met = all(
        a.same_lists == num_users and a.largest_difference <= TOLERANCE for a in found.values()
    )
    print(f"{'met   ' if is_met else 'MISSED'} the same {K} items, scores to {TOLERANCE:g}")
    sys.exit(not is_met)


if __name__ == "__main__":
    main()
