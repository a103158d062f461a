"""Do the exported graphs compute what the model computes? Asked before anybody relies on them."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.errors import ExportError
from bbqrec.export.graph_files import GraphFile
from bbqrec.recommend import Recommender
from bbqrec.recommender import Graph
from bbqrec.semantic_ids import PAD_TOKEN

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE = 1e-4
NUM_HISTORIES = 64
NUM_BEAMS = 5
LONGEST_DRAWN = 60


class Agreement(NamedTuple):
    """How far onnxruntime's numbers lie from torch's, at most, graph by graph."""

    num_histories: int
    largest_difference: dict[str, float]


def check_graphs(folder: Path, files: list[GraphFile], recommender: Recommender) -> Agreement:
    """Compare ONNX files with the model's own modules on histories like the run's, one empty.

    Raises:
        ExportError: an ONNX graph is further off than `TOLERANCE`.
    """
    history = _some_histories(recommender)
    differences = {}
    read: tuple[Tensor, ...] = ()
    for file in files:
        session = open_session(folder / file.onnx)
        if "history" in file.graph.inputs:
            computed, difference = _compare(session, file.graph, (history,))
            read = computed if file.name == "encoder" else read
        else:
            difference = max(
                _compare(session, file.graph, (*read, tokens))[1]
                for tokens in _some_beams(recommender, len(history))
            )
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the ONNX graph {file.name} is off by {difference:.2g} on histories like the "
                f"run's (allowed: {TOLERANCE:g}), so nothing was exported; try other versions of "
                "torch and onnxruntime, and report it"
            )
        differences[file.name] = difference
    return Agreement(len(history), differences)


def open_session(path: Path) -> "InferenceSession":
    """The graph of an ONNX file on one CPU thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _compare(
    session: "InferenceSession", graph: Graph, inputs: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], float]:
    with torch.no_grad():
        expected = graph.module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    named = {name: x.numpy() for name, x in zip(graph.inputs, inputs, strict=True)}
    found = session.run(None, named)
    return expected, max(
        _difference(np.asarray(a), b.numpy()) for a, b in zip(found, expected, strict=True)
    )


def _difference(found: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """The largest difference; infinite where the shapes or the infinite entries differ."""
    if found.shape != expected.shape:
        return float("inf")
    a, b = found.astype(np.float64), expected.astype(np.float64)
    is_different = a != b  # which -inf in both places is not
    difference = np.abs(a[is_different] - b[is_different])
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


def _some_histories(recommender: Recommender) -> Tensor:
    """Of random users of the run and of the one with the longest, or of random items where the
    run knows too few users; the last is empty."""
    known = recommender.dataset.known_histories()
    rng = np.random.default_rng(0)
    rows = [known[user] for user in rng.permutation(len(known))[: NUM_HISTORIES - 2].tolist()]
    rows += [max(known, key=len)] if known else []
    while len(rows) < NUM_HISTORIES - 1:
        length = int(rng.integers(1, LONGEST_DRAWN))
        rows.append(rng.integers(recommender.dataset.num_items, size=length).astype(np.int32))
    table = np.full((NUM_HISTORIES, max(map(len, rows))), -1, dtype=np.int64)
    for row, history in zip(table, rows, strict=False):
        row[: len(history)] = history
    return torch.from_numpy(table)


def _some_beams(recommender: Recommender, batch: int) -> list[Tensor]:
    """Per level the beginnings of some items' semantic IDs, as tokens behind the start token."""
    tokens = recommender.semantic_ids.tokens
    rng = np.random.default_rng(1)
    items = torch.from_numpy(rng.integers(len(tokens), size=(batch, NUM_BEAMS)))
    whole = torch.cat([torch.full((*items.shape, 1), PAD_TOKEN), tokens[items]], -1)
    return [whole[..., :step] for step in range(1, tokens.shape[1] + 1)]
