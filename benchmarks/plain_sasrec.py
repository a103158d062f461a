"""A SASRec that owes nothing to this package: `python benchmarks/plain_sasrec.py RUN [RUN ...]`.

A check on the row `SASRec` of the benchmarks, whose model is a configuration of ours: a Transformer
of one layer as one would write it down (LayerNorm first, GELU, positions counted from the end of
the history, added to the item vectors), cosine logits over a temperature, cross-entropy over all
items at every position. Of a run it takes the prepared data alone; of every user all other items
are ranked, history items once removed and once left, and the epoch is the best on validation (all
users, NDCG@10, removed). With `--against CELL.npz`, a cell of `docs/results`, each repeatable, the
difference of their mean to the mean of the seeds here is paired user by user.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bbqrec.bundle import RunFolder
from bbqrec.data import Cases, Dataset

SETTINGS = ("removed", "left")
DRAWS = 1000
AT_ONCE = 512

Rows = list[NDArray[np.int64]]
Ranks = dict[str, NDArray[np.int64]]


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_attention, self.from_attention = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.to_attention(self.before_attention(x)).view(batch, length, 3, self.heads, -1)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            *parts.permute(2, 0, 3, 1, 4), attn_mask=visible, dropout_p=dropout
        )
        mixed = self.from_attention(mixed.transpose(1, 2).reshape(batch, length, width))
        x = x + F.dropout(mixed, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.before_mlp(x)), self.dropout, self.training)


class PlainSASRec(nn.Module):
    """Item 0 is padding; rows are right-aligned."""

    def __init__(self, num_items: int, options: argparse.Namespace) -> None:
        super().__init__()
        self.dropout, self.root = options.dropout, math.sqrt(options.width)
        self.items = nn.Embedding(num_items + 1, options.width, padding_idx=0)
        self.places = nn.Embedding(options.max_history, options.width)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.layers = nn.ModuleList(
            Layer(options.width, options.heads, options.dropout) for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(options.width)

    def forward(self, items: Tensor) -> Tensor:
        """Unit vectors of what follows each place: (batch, place, width)."""
        length = items.shape[1]
        x = self.items(items) * self.root + self.places(torch.arange(length).flip(0))
        x = F.dropout(x, self.dropout, self.training)
        visible = torch.ones(length, length, dtype=torch.bool).tril() & (items > 0)[:, None]
        visible |= torch.eye(length, dtype=torch.bool)  # a place of padding sees itself
        for layer in self.layers:
            x = layer(x, visible[:, None])
        return F.normalize(self.norm(x), dim=-1)

    def table(self) -> Tensor:
        return F.normalize(self.items.weight[1:], dim=-1)


def padded(rows: Rows) -> Tensor:
    table = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for place, row in enumerate(rows):
        table[place, table.shape[1] - len(row) :] = row + 1
    return torch.from_numpy(table)


def windows(dataset: Dataset, size: int) -> Rows:
    """Every user's latest `size` inputs and targets, and the ones before them, window by window."""
    cut: Rows = []
    for begin, end in zip(dataset.train.offsets, dataset.train.offsets[1:], strict=False):
        row = dataset.train.items[begin:end].astype(np.int64)
        cut += [row[max(0, stop - size - 1) : stop] for stop in range(len(row), 1, -size)]
    return cut


@torch.inference_mode()
def ranks(model: PlainSASRec, cases: Cases, size: int) -> Ranks:
    """How many items are ahead of the target, by case, history items removed and left."""
    model.eval()
    table, found = model.table(), {setting: list[Tensor]() for setting in SETTINGS}
    offsets = cases.histories.offsets
    for first in range(0, len(cases), AT_ONCE):
        chunk = range(first, min(first + AT_ONCE, len(cases)))
        rows = [cases.histories.items[offsets[i] : offsets[i + 1]].astype(np.int64) for i in chunk]
        scores = model(padded([row[-size:] for row in rows]))[:, -1] @ table.T
        target = torch.from_numpy(cases.targets[chunk.start : chunk.stop].astype(np.int64))[:, None]
        of_target = scores.gather(1, target)
        found["left"].append((scores > of_target).sum(1))
        for user, row in enumerate(rows):
            scores[user, row] = -torch.inf
        found["removed"].append((scores > of_target).sum(1))
    return {setting: torch.cat(chunks).numpy() for setting, chunks in found.items()}


def gains(ahead: NDArray[np.int64], k: int = 10) -> dict[str, NDArray[np.float64]]:
    hit = ahead < k
    return {"ndcg@10": hit / np.log2(ahead + 2.0), "recall@10": hit.astype(np.float64)}


def means(ahead: Ranks) -> dict[str, dict[str, float]]:
    return {
        setting: {name: round(float(x.mean()), 4) for name, x in gains(rows).items()}
        for setting, rows in ahead.items()
    }


def train(dataset: Dataset, options: argparse.Namespace, seed: int) -> dict[str, Ranks]:
    """The ranks on both splits at the epoch that is best on validation."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = PlainSASRec(dataset.num_items, options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.01)
    rows = windows(dataset, options.max_history)
    lengths = np.array([len(row) for row in rows])
    steps = options.epochs * math.ceil(len(rows) / options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.rate, total_steps=steps + 1, pct_start=0.05, cycle_momentum=False
    )
    best, kept, start = 0.0, dict[str, Ranks](), time.monotonic()
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
                logits = states @ (model.table() / options.temperature).T
            loss = F.cross_entropy(logits.float(), targets[inputs > 0] - 1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch + 1 < options.epochs // 2:
            continue  # never the best
        found = {"validation": ranks(model, dataset.validation, options.max_history)}
        score = float(gains(found["validation"]["removed"])["ndcg@10"].mean())
        print(
            f"seed {seed}, epoch {epoch + 1} of {options.epochs}: NDCG@10 {score:.4f} on "
            f"validation, {time.monotonic() - start:.0f} s",
            flush=True,
        )
        if score > best:
            best, kept = score, {**found, "test": ranks(model, dataset.test, options.max_history)}
    return kept


def compared(made: list[dict[str, Ranks]], cells: list[Path], split: str) -> dict[str, object]:
    """Mean over seeds of the cells less that of what is made here, with 95 % intervals."""
    result: dict[str, object] = {}
    draws = np.random.default_rng(0).poisson(1.0, (DRAWS, len(made[0][split]["left"])))
    for setting, stored in zip(SETTINGS, ("filtered", "kept"), strict=True):
        mine = [gains(ranks[split][setting]) for ranks in made]
        # A cell holds places from 1 on, 0 where the target is in none of the first.
        places = [np.load(cell)[f"{split}.{stored}"].astype(np.int64) for cell in cells]
        theirs = [gains(np.where(place > 0, place - 1, 10**6)) for place in places]
        for name in ("ndcg@10", "recall@10"):
            means = [np.mean([each[name] for each in side], 0) for side in (theirs, mine)]
            difference = means[0] - means[1]
            drawn = draws @ difference / draws.sum(1)
            result[f"{setting}, {name}"] = [
                round(float(x), 4) for x in (difference.mean(), *np.quantile(drawn, [0.025, 0.975]))
            ]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--against", type=Path, action="append", default=[], metavar="CELL.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--max-history", type=int, default=50)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=1)
    options = parser.parse_args()
    for run in options.runs:
        dataset = RunFolder(run).dataset()
        made = [train(dataset, options, seed) for seed in range(options.seeds)]
        for split in ("validation", "test"):
            found = {
                "run": str(run),
                "split": split,
                "by seed": [means(ranks[split]) for ranks in made],
            }
            if options.against:
                found["cells less these"] = compared(made, options.against, split)
            print(json.dumps(found))


if __name__ == "__main__":
    main()
