"""A SASRec that owes nothing to this package: `python benchmarks/plain_sasrec.py RUN`.

A check on the row `SASRec` of the benchmarks, whose model is a configuration of ours: a Transformer
of one layer as one would write it down (LayerNorm first, GELU, places counted from the end of the
history, added to the item vectors), cosine logits over a temperature, cross-entropy over all items
at every place. Model, training and ranking are its own; of RUN, which need only be prepared, it
takes the data. All items are ranked for everybody, history items once removed and once left, and
the epoch is the best on validation (all users, NDCG@10, removed). With `--against CELL.npz`, cells
of `docs/results`, it also says how far the mean of these is ahead, paired user by user:

    bbqrec prepare DATA/amazon2014_beauty --out runs/beauty
    CELLS=docs/results/bench_amazon/cells/beauty
    python benchmarks/plain_sasrec.py runs/beauty --against $CELLS/bbqrec-seed[012].npz
"""

import argparse
import json
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bbqrec.bundle import RunFolder
from bbqrec.data import Cases, Dataset
from bbqrec.evaluation import bootstrap_intervals, metric_values

METRICS = ("ndcg@10", "recall@10")
SETTINGS = ("filtered", "kept")  # history items removed, and left
WIDTH, HEADS, DROPOUT, TEMPERATURE, RATE = 128, 2, 0.5, 0.05, 1e-3
AT_ONCE = 512

Rows = list[NDArray[np.int64]]
Ranks = dict[str, NDArray[np.int64]]  # "test.kept" and so on: the target's place, from 1 on


class PlainSASRec(nn.Module):
    """Item 0 is padding; rows are right-aligned."""

    def __init__(self, num_items: int, max_history: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, WIDTH, padding_idx=0)
        self.places = nn.Embedding(max_history, WIDTH)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.to_attention, self.from_attention = (
            nn.Linear(WIDTH, 3 * WIDTH),
            nn.Linear(WIDTH, WIDTH),
        )
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, items: Tensor) -> Tensor:
        """Unit vectors of what follows each place: (batch, place, width)."""
        batch, length = items.shape
        x = self.items(items) * math.sqrt(WIDTH) + self.places(torch.arange(length).flip(0))
        x = F.dropout(x, DROPOUT, self.training)
        visible = torch.ones(length, length, dtype=torch.bool).tril() & (items > 0)[:, None]
        visible |= torch.eye(length, dtype=torch.bool)  # a place of padding sees itself
        parts = self.to_attention(self.before_attention(x)).view(batch, length, 3, HEADS, -1)
        mixed = F.scaled_dot_product_attention(
            *parts.permute(2, 0, 3, 1, 4),
            attn_mask=visible[:, None],
            dropout_p=DROPOUT if self.training else 0.0,
        )
        mixed = self.from_attention(mixed.transpose(1, 2).flatten(2))
        x = x + F.dropout(mixed, DROPOUT, self.training)
        x = x + F.dropout(self.mlp(self.before_mlp(x)), DROPOUT, self.training)
        return F.normalize(self.norm(x), dim=-1)

    def table(self) -> Tensor:
        return F.normalize(self.items.weight[1:], dim=-1)


def padded(rows: Rows) -> Tensor:
    lengths = np.array([len(row) for row in rows])
    width = lengths.max()
    table = np.zeros((len(rows), width), np.int64)
    table[np.arange(width) >= width - lengths[:, None]] = np.concatenate(rows) + 1
    return torch.from_numpy(table)


def windows(dataset: Dataset, size: int) -> Rows:
    """Every user's latest `size` inputs and targets, and the ones before them, window by window."""
    cut: Rows = []
    for begin, end in pairwise(dataset.train.offsets):
        row = dataset.train.items[begin:end].astype(np.int64)
        cut += [row[max(0, stop - size - 1) : stop] for stop in range(len(row), 1, -size)]
    return cut


@torch.inference_mode()
def ranks_of(model: PlainSASRec, cases: Cases, size: int) -> list[NDArray[np.int64]]:
    """The place of every case's target, one array for each of the `SETTINGS`."""
    model.eval()
    table, places = model.table(), []
    for first in range(0, len(cases), AT_ONCE):
        part = cases.take(np.arange(first, min(first + AT_ONCE, len(cases))))
        history = part.histories.items.astype(np.int64)
        rows = np.split(history, part.histories.offsets[1:-1])
        scores = model(padded([row[-size:] for row in rows]))[:, -1] @ table.T
        of_target = scores.gather(1, torch.from_numpy(part.targets.astype(np.int64))[:, None])
        kept = (scores > of_target).sum(1) + 1
        scores[np.repeat(np.arange(len(rows)), part.histories.lengths), history] = -torch.inf
        places.append(torch.stack([(scores > of_target).sum(1) + 1, kept]))
    return list(torch.cat(places, 1).numpy())


def means(ranks: Ranks, split: str) -> dict[str, float]:
    return {
        f"{setting}, {name}": round(
            float(metric_values(ranks[f"{split}.{setting}"], name).mean()), 4
        )
        for setting in SETTINGS
        for name in METRICS
    }


def train(dataset: Dataset, options: argparse.Namespace, seed: int) -> Ranks:
    """At the epoch that is best on validation."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = PlainSASRec(dataset.num_items, options.max_history)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    rows = windows(dataset, options.max_history)
    lengths = np.array([len(row) for row in rows])
    steps = options.epochs * math.ceil(len(rows) / options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps + 1, pct_start=0.05, cycle_momentum=False
    )
    best, kept, start = -math.inf, Ranks(), time.monotonic()
    is_bf16 = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    for epoch in range(options.epochs):
        model.train()
        order = (lengths + 3 * rng.random(len(rows))).argsort()  # rows of like length together
        batches = np.array_split(order, range(options.batch, len(order), options.batch))
        for number in rng.permutation(len(batches)):
            items = padded([rows[row] for row in batches[number]])
            inputs, targets = items[:, :-1], items[:, 1:]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                states = model(inputs)[inputs > 0]
                logits = states @ (model.table() / TEMPERATURE).T
            loss = F.cross_entropy(logits.float(), targets[inputs > 0] - 1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch + 1 < options.epochs // 2:
            continue  # at such learning rates nothing has settled
        found = ranks_of(model, dataset.validation, options.max_history)
        score = float(metric_values(found[0], "ndcg@10").mean())
        print(
            f"seed {seed}, epoch {epoch + 1} of {options.epochs}: NDCG@10 {score:.4f} on "
            f"validation, {time.monotonic() - start:.0f} s",
            flush=True,
        )
        if score > best:
            both = {
                "validation": found,
                "test": ranks_of(model, dataset.test, options.max_history),
            }
            best = score
            kept = {
                f"{split}.{setting}": places
                for split, ranks in both.items()
                for setting, places in zip(SETTINGS, ranks, strict=True)
            }
    return kept


def ahead(
    theirs: list[Ranks], mine: list[Ranks], split: str
) -> dict[str, tuple[float, float, float]]:
    """Mean over seeds of theirs less that of mine, with its 95 % interval."""
    names = [(setting, name) for setting in SETTINGS for name in METRICS]
    differences = [
        np.subtract(
            *(
                np.mean([metric_values(ranks[f"{split}.{setting}"], name) for ranks in side], 0)
                for side in (theirs, mine)
            )
        )
        for setting, name in names
    ]
    found = bootstrap_intervals(np.stack(differences, 1), np.random.default_rng(0))
    rounded = np.stack(found, 1).round(4).tolist()
    return {", ".join(key): tuple(row) for key, row in zip(names, rounded, strict=True)}


def read_cell(path: Path, dataset: Dataset) -> Ranks:
    """SystemExit where the cell is of other data: its cases are others."""
    if json.loads(path.with_suffix(".json").read_text())["dataset"] != dataset.fingerprint:
        raise SystemExit(f"{path} was measured on other data than the run has been prepared from")
    with np.load(path) as arrays:
        return {name: arrays[name].astype(np.int64) for name in arrays.files}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="CELL.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--max-history", type=int, default=50)
    options = parser.parse_args()
    dataset = RunFolder(options.run).dataset()
    cells = [read_cell(path, dataset) for path in options.against]
    made = [train(dataset, options, seed) for seed in range(options.seeds)]
    for split in ("validation", "test"):
        row = {"split": split, "by seed": [means(ranks, split) for ranks in made]}
        print(json.dumps(row | ({"cells ahead": ahead(cells, made, split)} if cells else {})))


if __name__ == "__main__":
    main()
