"""The README.md of an export: what each file is, and how it is called."""

from pathlib import Path
from typing import Any

PURPOSES = {
    "scores": "the dense score, a log-probability, of every item, with all that the history adds",
    "user_vector": "the vector whose inner product with an item's is the dense logit, see below",
    "encoder": "reads a history once, for a search of its next semantic ID",
    "decoder_step": "log-probabilities of each beam's next token",
}

FILES = {
    "items.json": "`item_ids`, `titles` and `codes` by item number, which graphs speak of",
    "item_vectors.npy": "one row per item, for an index of nearest neighbors by inner product",
    "dense_tables.npz": "what the dense score adds to that inner product",
    "semantic_ids.parquet": "`item_id`, `code_0`, `code_1`, ... coarse to fine",
    "lcrec": "the semantic IDs as LC-Rec, LETTER and MQL4GRec read them",
}


def guide(about: dict[str, Any], folder: Path) -> str:
    """Markdown on the files in `folder`; `about` is the manifest without digests."""
    sections = [
        f"# Model {about['model_version']}, exported by bbqrec {about['bbqrec']}\n\n"
        "`manifest.json` says all of this for programs, with the SHA-256 of every file.",
        _files(about, folder),
    ]
    if about["graphs"]:
        sections += [_graphs(about), _calling(about)]
        if "scores" in about["graphs"]:
            sections.append(_DENSE)
        sections.append(_generating(about))
    sections.append(_TRAINING_ON)
    return "\n\n".join(sections) + "\n"


def _files(about: dict[str, Any], folder: Path) -> str:
    rows = [f"| `{name}` | {what} |" for name, what in FILES.items() if (folder / name).exists()]
    rows += [
        f"| `{graph['onnx']}`, `{graph['torch']}` | {PURPOSES[name]} |"
        for name, graph in about["graphs"].items()
    ]
    return "\n".join(["| File | What it is |", "| --- | --- |", *rows])


def _graphs(about: dict[str, Any]) -> str:
    def tensors(part: dict[str, list[str | int]]) -> str:
        return ", ".join(f"`{name}` ({', '.join(map(str, axes))})" for name, axes in part.items())

    rows = [
        f"| {name} | {tensors(graph['inputs'])} | {tensors(graph['outputs'])} |"
        for name, graph in about["graphs"].items()
    ]
    worst = max(about["agreement"]["largest_difference"].values())
    return "\n".join(
        [
            "## Graphs",
            "",
            "| Graph | Takes | Gives |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"Before they were written, onnxruntime agreed with torch to {worst:.1g} on "
            f"{about['agreement']['num_histories']} histories of the run. Numbers are float32, "
            "item numbers, tokens and `last_place` int64. Named axes may have any size from 1.",
        ]
    )


def _calling(about: dict[str, Any]) -> str:
    first = next(iter(about["graphs"]))
    return f"""## Calling them

`history` holds item numbers, one row per user, oldest item first, with -1 in unused places at the
end. Give all of a user's history: of what it needs, a graph takes the latest
{about["max_history"]} items by itself. An empty history is a row of -1.

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("onnx/{first}.onnx")
history = np.array([[17, 4, 99], [5, -1, -1]], dtype=np.int64)
(answer,) = session.run(None, {{"history": history}})[:1]
```

The `.pt2` files are the same graphs for torch: `torch.export.load(path).module()(history)`. Load
only files you trust, as with anything torch reads."""


_DENSE = """## Ranking by the dense score

`scores` is complete: sort a row, and leave out what is not to be recommended, such as the history's
own items (nothing is left out here).

For catalogs too large to score whole, `user_vector` and `item_vectors.npy` are a pair for an index
of nearest neighbors: inner product = logit, before `dense_tables.npz` is added:

- for every item `item_bias`; then
- for an item that the user had, the latest time `a` events ago (1 is the latest event):
  `repeat_by_age[min(a, len - 1)]`;
- for any other item, summed over kinds of likeness `k` and the latest items `j`, that of place `a`
  counted from 0 for the latest: `neighbor_gain[k, a, neighbor_buckets[k, j, n]]` wherever
  `neighbor_items[k, j, n]` is the item.

Items that these favor may lie beyond an index's answer: add all neighbors of the latest items to
the candidates. A softmax over all items then gives what `scores` gives."""


def _generating(about: dict[str, Any]) -> str:
    offsets = ", ".join(map(str, about["level_offsets"]))
    sizes = ", ".join(map(str, about["codebook_sizes"]))
    carried = [name for name in about["graphs"]["decoder_step"]["inputs"] if name != "tokens"]
    return f"""## Generating semantic IDs

1. `encoder` once for all users.
2. `decoder_step` with {", ".join(f"`{name}`" for name in carried)} and `tokens`, at first one beam
   of one token per user, the start token {about["start_token"]}. The answer is a log-probability of
   every token: token = level offset + code, and tokens of other levels hold -inf. Codes per level:
   {sizes}; offsets: {offsets}.
3. Keep the best beams that begin some item's semantic ID, append their tokens, and repeat step 2
   until every level has its code. An item's score is the sum over its levels.

Nothing but the beams is carried from step to step. bbqrec's `examples/5_onnx_without_bbqrec.py`
does this, and the dense ranking, in numpy and onnxruntime alone."""


_TRAINING_ON = """## Training on these semantic IDs

LC-Rec, LETTER and MQL4GRec take `lcrec/bbqrec.index.json` (item number -> `<a_12>`, `<b_3>`, ...)
in place of their own; `lcrec/bbqrec.item2id` says which item has which number. bbqrec itself takes
either form: `bbqrec run --data DATA --out RUN --set semantic_ids=semantic_ids.parquet`."""
