"""What content tells of behavior: `python benchmarks/content_signal.py RUN [RUN ...]`.

Ridge regression foretells an item's co-occurrence vector (PPMI, SVD, length 1) from its content,
for items that the regression has not seen (5 folds; the penalty is chosen within the others). R2 is
the share of variance it explains; `beside` is what a modality explains of the rest that the others
leave. A hint, in seconds and without training, of what a modality can add to a recommender. Only
items that have every modality are asked, so that the numbers compare.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict

from bbqrec.bundle import RunFolder
from bbqrec.tokenizer.cooccurrence import cooccurrence_vectors

DIM = 64  # of behavior
FOLDS = 5
PENALTIES = np.logspace(-2, 2, 13)
DRAWS = 1000

Matrix = NDArray[np.float64]


def unit(vectors: Matrix) -> Matrix:
    centered = vectors - vectors.mean(0)
    units: Matrix = centered / np.linalg.norm(centered, axis=1, keepdims=True).clip(min=1e-12)
    return units


def foretell(content: Matrix, behavior: Matrix, seed: int) -> Matrix:
    """Of every item what its content says, by a regression that has not seen the item."""
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    foretold: Matrix = cross_val_predict(RidgeCV(PENALTIES), content, behavior, cv=folds)
    return foretold


def explained(foretold: Matrix, behavior: Matrix, seed: int) -> dict[str, Any]:
    """The share of variance, with its 95 % bootstrap interval over items."""
    left = ((behavior - foretold) ** 2).sum(1)
    all_of_it = ((behavior - behavior.mean(0)) ** 2).sum(1)
    draws = np.random.default_rng(seed).integers(len(left), size=(DRAWS, len(left)))
    shares = 1 - left[draws].sum(1) / all_of_it[draws].sum(1)
    return {
        "r2": round(float(1 - left.sum() / all_of_it.sum()), 4),
        "interval": [round(float(q), 4) for q in np.quantile(shares, [0.025, 0.975])],
    }


def measure(run: Path, seed: int) -> dict[str, Any]:
    folder = RunFolder(run)
    dataset = folder.dataset()
    features = folder.features(dataset)
    found = cooccurrence_vectors(dataset.train, dataset.num_items, dim=DIM, seed=seed).double()
    is_asked = found.any(1)
    for modality in features:
        is_asked &= modality.is_present
    behavior: Matrix = found[is_asked].numpy()
    behavior /= np.linalg.norm(behavior, axis=1, keepdims=True)
    content = {f.modality: unit(f.vectors[is_asked].double().numpy()) for f in features}
    result: dict[str, Any] = {"run": str(run), "items": len(behavior)}
    for name, vectors in content.items():
        result[name] = explained(foretell(vectors, behavior, seed), behavior, seed)
        others = [other for key, other in content.items() if key != name]
        if others:
            rest = behavior - foretell(np.concatenate(others, 1), behavior, seed)
            result[name]["beside"] = explained(foretell(vectors, rest, seed), rest, seed)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for run in arguments.runs:
        print(json.dumps(measure(run, arguments.seed), indent=2))


if __name__ == "__main__":
    main()
