"""Recommend from an export with numpy and onnxruntime alone: no bbqrec, no torch.

    bbqrec export runs/demo --to exported
    python examples/5_onnx_without_bbqrec.py exported LAMP-0531,BAG-0064

Written to be read and rewritten in another language, not to be fast: one user at a time, plain
loops, dictionaries.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


class Exported:
    """The files of one export: what items are called, and the graphs that score them."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "manifest.json").read_text())
        items = json.loads((folder / "items.json").read_text())
        self.item_ids, self.titles = items["item_ids"], items["titles"]
        self.item_of_id = {item_id: item for item, item_id in enumerate(self.item_ids)}
        # A semantic ID as the model sees it: each level's codes have tokens of their own.
        offsets = self.about["level_offsets"]
        self.tokens = [
            tuple(offset + code for offset, code in zip(offsets, codes, strict=True))
            for codes in items["codes"]
        ]
        self.graphs = {
            name: onnxruntime.InferenceSession(str(folder / graph["onnx"]))
            for name, graph in self.about["graphs"].items()
        }
        if "scores" in self.graphs:
            self.item_vectors = np.load(folder / "item_vectors.npy")
            self.dense_tables = dict(np.load(folder / "dense_tables.npz"))

    def history(self, item_ids: list[str]) -> np.ndarray:
        """One row of item numbers, oldest first; unknown items are left out, nothing is -1."""
        known = [self.item_of_id[item_id] for item_id in item_ids if item_id in self.item_of_id]
        return np.array([known or [-1]], dtype=np.int64)

    def rank(self, item_ids: list[str], k: int) -> list[tuple[int, float]]:
        """The `k` items of the highest dense score that are not in the history."""
        history = self.history(item_ids)
        (scores,) = self.graphs["scores"].run(None, {"history": history})
        return best(enumerate(scores[0].tolist()), k, without=history[0])

    def rank_by_hand(self, item_ids: list[str], k: int) -> list[tuple[int, float]]:
        """The same from the user's vector and the tables: what a nearest-neighbor index does.

        Here every item is a candidate. An index would bring the best inner products, and the
        neighbors of the latest items would be candidates beside them.
        """
        history = self.history(item_ids)
        (vector,) = self.graphs["user_vector"].run(None, {"history": history})
        logits = self.item_vectors @ vector[0] + self.dense_tables["item_bias"]
        latest_first = [item for item in history[0, ::-1].tolist() if item >= 0]
        tables = self.dense_tables
        own = logits.copy()
        if "neighbor_gain" in tables:
            for kind, gain in enumerate(tables["neighbor_gain"]):
                for age, item in enumerate(latest_first[: gain.shape[0]]):
                    neighbors = tables["neighbor_items"][kind, item]
                    buckets = tables["neighbor_buckets"][kind, item]
                    for neighbor, bucket in zip(neighbors, buckets, strict=True):
                        logits[neighbor] += gain[age, bucket]
        if "repeat_by_age" in tables:
            by_age = tables["repeat_by_age"]
            for events_ago, item in reversed(list(enumerate(latest_first, start=1))):
                logits[item] = own[item] + by_age[min(events_ago, len(by_age) - 1)]
        log_sum = logits.max() + np.log(np.exp(logits - logits.max()).sum())
        return best(enumerate((logits - log_sum).tolist()), k, without=history[0])

    def generate(
        self, item_ids: list[str], k: int, beam_width: int = 50
    ) -> list[tuple[int, float]]:
        """The `k` items of the most probable semantic IDs that a beam search finds."""
        history = self.history(item_ids)
        encoder = self.graphs["encoder"]
        names = [output.name for output in encoder.get_outputs()]
        read = dict(zip(names, encoder.run(None, {"history": history}), strict=True))

        seen = set(history[0].tolist())
        items_of: dict[tuple[int, ...], list[int]] = {}  # of every beginning of a semantic ID
        for item, tokens in enumerate(self.tokens):
            if item not in seen:
                for length in range(1, len(tokens) + 1):
                    items_of.setdefault(tokens[:length], []).append(item)

        beams = {(): 0.0}  # beginning -> log-probability
        num_levels = len(self.about["level_offsets"])
        for level in range(num_levels):
            start = self.about["start_token"]
            rows = [[start, *tokens] for tokens in beams]
            inputs = {**read, "tokens": np.array([rows], dtype=np.int64)}
            (answer,) = self.graphs["decoder_step"].run(None, inputs)
            longer = {
                (*tokens, token): score + row[token]
                for (tokens, score), row in zip(beams.items(), answer[0], strict=True)
                for token in np.flatnonzero(np.isfinite(row)).tolist()
                if (*tokens, token) in items_of
            }
            width = len(longer) if level == num_levels - 1 else max(beam_width, k)
            beams = dict(sorted(longer.items(), key=lambda beam: (-beam[1], beam[0]))[:width])
        found = [(item, float(beams[tokens])) for tokens in beams for item in items_of[tokens]]
        return best(found, k, without=[])


def best(scored, k: int, without) -> list[tuple[int, float]]:
    """The highest scores; among equals the lower item number comes first."""
    left_out = set(map(int, without))
    kept = [(item, score) for item, score in scored if item not in left_out]
    return sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:k]


def main(folder: Path, history: list[str], k: int = 5) -> None:
    exported = Exported(folder)
    for what, answer in (
        ("by the dense score", exported.rank(history, k) if "scores" in exported.graphs else []),
        ("by generating semantic IDs", exported.generate(history, k)),
    ):
        print(f"after {', '.join(history)}, {what}:")
        for item, score in answer:
            print(f"  {exported.item_ids[item]}  {exported.titles[item]}  ({score:.3f})")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python 5_onnx_without_bbqrec.py EXPORT_FOLDER ITEM_ID,ITEM_ID,...")
    main(Path(sys.argv[1]), sys.argv[2].split(","))
