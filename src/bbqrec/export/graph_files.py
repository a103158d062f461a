"""Graphs as files: torch.export programs and, translated from the same programs, ONNX."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import Dim, ExportedProgram

from bbqrec.recommender import Graph, SequenceModel, graphs

MAX_INLINE_BYTES = 2**30  # of weights inside an .onnx file, which cannot hold more than 2 GiB


class GraphFile(NamedTuple):
    """One graph in both formats, each as a path inside the export."""

    name: str
    graph: Graph
    onnx: str
    torch: str

    def to_json(self) -> dict[str, Any]:
        inputs, outputs = (
            {name: list(axes) for name, axes in part.items()}
            for part in (self.graph.inputs, self.graph.outputs)
        )
        return {"onnx": self.onnx, "torch": self.torch, "inputs": inputs, "outputs": outputs}


def write_graphs(
    folder: Path, model: SequenceModel, *, new_item_boost: float = 0.0
) -> list[GraphFile]:
    """Export every graph of `model` (on the CPU) into `folder`."""
    for name in ("onnx", "torch"):
        (folder / name).mkdir()
    written = []
    with _quiet():
        for name, graph in graphs(model, new_item_boost=new_item_boost).items():
            file = GraphFile(name, graph, f"onnx/{name}.onnx", f"torch/{name}.pt2")
            program = _traced(graph)
            torch.export.save(program, folder / file.torch)
            onnx = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                verbose=False,
            )
            assert onnx is not None
            size = sum(x.numel() * x.element_size() for x in program.state_dict.values())
            onnx.save(folder / file.onnx, external_data=size > MAX_INLINE_BYTES)
            written.append(file)
    return written


def _traced(graph: Graph) -> ExportedProgram:
    axes: dict[str, Any] = {}
    shapes = [
        {
            number: axes.setdefault(axis, Dim(axis, min=1, max=graph.largest.get(axis)))
            for number, axis in by_number.items()
        }
        for by_number in graph.dynamic_axes()
    ]
    with torch.no_grad():
        return torch.export.export(graph.module, graph.examples, dynamic_shapes=tuple(shapes))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on every node, which are none of the user's business."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
