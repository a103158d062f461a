"""Long work in pieces that survive a kill."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from bbqrec.errors import CorruptArtifactError
from bbqrec.progress import tracker
from bbqrec.storage import read_tensors, write_tensors

T = TypeVar("T")


def compute_in_shards(
    chunks: Iterable[Sequence[T]],
    compute: Callable[[Sequence[T]], dict[str, Tensor]],
    directory: Path,
    *,
    description: str,
    total: int,
) -> dict[str, Tensor]:
    """`compute` of each chunk, concatenated along the first axis.

    Each result is written to `directory` before the next chunk begins, and read instead of
    computed when the same work starts again. The caller sees to it that a directory belongs to
    one piece of work: the same chunks in the same order.

    Args:
        total: number of elements in all chunks, for the progress shown.
    """
    parts: list[dict[str, Tensor]] = []
    with tracker(description, total) as progress:
        for number, chunk in enumerate(chunks):
            path = directory / f"part-{number:06d}.safetensors"
            part = _read_finished(path)
            if part is None:
                part = compute(chunk)
                write_tensors(path, part)
            parts.append(part)
            progress.advance(len(chunk))
    return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _read_finished(path: Path) -> dict[str, Tensor] | None:
    try:
        return read_tensors(path)
    except CorruptArtifactError:  # not there, or cut off by a full disk: compute it
        return None
