"""Files: written atomically, read with a size cap and a typed error.

Nothing here can execute what a file says: tensors are safetensors, everything else is JSON.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bbqrec.errors import CorruptArtifactError, StorageError

MAX_JSON_BYTES = 512 * 2**20
_TEMPORARY = ".partial"


def _refused(path: Path, error: OSError, verb: str) -> StorageError:
    reason = error.strerror or type(error).__name__
    return StorageError(f"cannot {verb} {path}: {reason}; nothing was left half-written")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, all or nothing: temporary file, fsync, rename."""
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _refused(path, error, "write") from None


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON in its own order; numpy arrays and scalars allowed."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
    write_bytes(path, orjson.dumps(value, option=options) + b"\n")


def read_bytes(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The content of a regular file of at most `max_bytes`."""
    try:
        if not path.is_file():
            raise CorruptArtifactError(f"{path} is missing or is not a file")
        size = path.stat().st_size
        if size > max_bytes:
            raise CorruptArtifactError(f"{path} has {size} bytes; at most {max_bytes} are read")
        return path.read_bytes()
    except OSError as error:
        raise _refused(path, error, "read") from None


def read_text(path: Path) -> str:
    """The content of a UTF-8 file."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptArtifactError(
            f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None


def read_json(path: Path) -> Any:
    """The value of a JSON file; CorruptArtifactError when it is not JSON."""
    try:
        return orjson.loads(read_bytes(path))
    except orjson.JSONDecodeError as error:
        raise CorruptArtifactError(f"{path} is not valid JSON: {error}") from None


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Named tensors as one safetensors file."""
    # Cloned, because safetensors refuses names that share memory.
    own = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_bytes(path, save(own, metadata=dict(metadata) if metadata else None))


def read_tensors(path: Path, device: str = "cpu", *, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a safetensors file; CorruptArtifactError when it is damaged.

    Args:
        prefix: only those whose names begin so are read.
    """
    if not path.is_file():
        raise CorruptArtifactError(f"{path} is missing or is not a file")
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise CorruptArtifactError(f"{path} is not a readable safetensors file: {error}") from None


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Fill `module` from a safetensors file whose names and shapes must match exactly."""
    tensors = read_tensors(path)
    expected = module.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys()) or [
        name for name, tensor in expected.items() if tensor.shape != tensors[name].shape
    ]
    if wrong:
        raise CorruptArtifactError(
            f"{path} does not fit this model: {wrong[0]} is missing, unknown or of another shape; "
            "it is damaged or of another version of bbqrec"
        )
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise CorruptArtifactError(f"{path} holds values that are not finite in {bad[0]}")
    module.load_state_dict(tensors)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _refused(path, error, "read") from None


def sha256_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: a fingerprint that does not depend on key order."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return hashlib.sha256(orjson.dumps(value, option=options)).hexdigest()


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` only if the block succeeds.

    An older `path` is kept until then and replaced; a failure or a kill leaves it untouched.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _refused(path, error, "create") from None
    try:
        yield temporary
        replace_directory(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # Not always the directory's fault: the block reads its sources, too.
        raise _refused(Path(error.filename or path), error, "read or write") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_directory(source: Path, target: Path) -> None:
    """Put the directory `source` in the place of `target` and make the change durable."""
    _sync_directory(source)
    if target.exists():
        old = target.with_name(target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        try:
            source.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        source.rename(target)
    _sync_directory(target.parent)
