"""What each part of the tokenizer does for separating behavior from nuisance, on planted data.

    python benchmarks/planted.py --seeds 5 > planted.md

Prints a Markdown table: R^2 of linear probes (mean over seeds and modalities) for the behavior
factor and the nuisance factors, from aligned vectors, specific vectors and codes.
"""

import argparse
import time
from typing import Any

import torch

from bbqrec.tokenizer.planted import MODALITIES, PLANTED_CONFIG, planted_shop, probe
from bbqrec.training.tokenizer import fit_tokenizer

ABLATIONS: dict[str, dict[str, Any]] = {
    "complete": {},
    "no CLUB": {"w_mi": 0.0, "w_mi_aligned": 0.0},
    "CLUB on the specific side only": {"w_mi_aligned": 0.0},
    "CLUB on the aligned side only": {"w_mi": 0.0},
    "no sequence-to-item contrast": {"w_s": 0.0},
    "no cross-stream term": {"w_x": 0.0},
    "no item vector": {"use_id": False},
    "separate codebooks": {"shared_codebook": False},
    "no behavior-aligned encoders": {"behavior_aligned": False},
}


def scores(changes: dict[str, Any], seed: int) -> dict[str, float]:
    """Probe scores of one seed, by column name."""
    shop = planted_shop(seed=seed)
    config = PLANTED_CONFIG.model_copy(update=changes)
    vectors = fit_tokenizer(shop.features, shop.dataset, config, seed=seed).item_vectors
    found = {"codes: factor": probe(vectors["quantized"], shop.factor)}
    sides = {"codes": "quantized", "aligned": "aligned.{}", "specific": "specific.{}"}
    for side, name in sides.items():
        tables = [(m, vectors.get(name.format(m))) for m in MODALITIES]
        for truth in ("factor", "nuisance"):
            values = [
                probe(table, shop.factor if truth == "factor" else shop.nuisance[m])
                for m, table in tables
                if table is not None
            ]
            found[f"{side}: {truth}"] = sum(values) / len(values) if values else float("nan")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=ABLATIONS, nargs="*", default=list(ABLATIONS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    header: list[str] = []
    for name in options.only:
        start = time.perf_counter()
        runs = [scores(ABLATIONS[name], seed) for seed in range(options.seeds)]
        if not header:
            header = list(runs[0])
            print(f"| tokenizer | {' | '.join(header)} | s/run |")
            print("| --- " * (len(header) + 2) + "|")
        means = [sum(run[column] for run in runs) / len(runs) for column in header]
        seconds = (time.perf_counter() - start) / len(runs)
        print(f"| {name} | {' | '.join(f'{v:.2f}' for v in means)} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
