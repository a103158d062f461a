"""Checkpoints that survive a kill at any moment: new directory, fsync, manifest, rename."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bbqrec.errors import BBQRecError, ConfigError, CorruptArtifactError
from bbqrec.storage import (
    new_directory,
    read_json,
    read_tensors,
    sha256_file,
    sha256_json,
    write_json,
    write_tensors,
)

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2


class Checkpointer:
    """Keeps the newest `keep` checkpoints of one training run in `directory`."""

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self._directory = directory
        self._keep = keep

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint all or nothing, then delete those beyond the newest `keep`."""
        target = self._directory / f"step-{step:09d}"
        with new_directory(target) as directory:
            write_tensors(directory / "tensors.safetensors", tensors)
            write_json(directory / "state.json", state)
            # The manifest comes last: a directory without it was never finished.
            names = ("state.json", "tensors.safetensors")
            manifest = {name: sha256_file(directory / name) for name in names}
            write_json(
                directory / "manifest.json",
                {"format_version": FORMAT_VERSION, "step": step, "sha256": manifest},
            )
        for old in self._steps()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    def load_latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest valid checkpoint, walking back over damaged ones; None if there is none."""
        for leftover in self._directory.glob("*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        for directory in reversed(self._steps()):
            try:
                manifest = read_json(directory / "manifest.json")
                if manifest.get("format_version") != FORMAT_VERSION:
                    raise CorruptArtifactError(f"{directory} has another format version")
                for name, digest in manifest["sha256"].items():
                    if sha256_file(directory / name) != digest:
                        raise CorruptArtifactError(f"{directory / name} is damaged")
                return (
                    read_tensors(directory / "tensors.safetensors"),
                    read_json(directory / "state.json"),
                )
            except BBQRecError as error:
                logger.warning("skipping an unusable checkpoint: %s", error)
        return None

    def _steps(self) -> list[Path]:
        return sorted(
            path for path in self._directory.glob("step-*") if path.suffix not in {".partial"}
        )


def check_identity(found: dict[str, Any], identity: dict[str, Any]) -> None:
    """ConfigError where the checkpoint of `found` would not continue this run exactly."""
    if sha256_json(found) == sha256_json(identity):
        return
    different = sorted(k for k in identity if sha256_json(found.get(k)) != sha256_json(identity[k]))
    raise ConfigError(
        f"the checkpoint belongs to a run with another {' and '.join(different)}, so it would "
        "not continue exactly; delete the checkpoints folder to start anew, or restore "
        "the old setting"
    )


def section(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those whose names begin with `<name>.`, without it."""
    prefix = name + "."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def optimizer_tensors(optimizer: Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimizer's moments under flat names `<prefix>.<parameter>.<moment>`."""
    return {
        f"{prefix}.{parameter}.{name}": value
        for parameter, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Undo `optimizer_tensors`; settings such as the learning rate stay as constructed."""
    state: dict[int, dict[str, Tensor]] = {}
    for flat_name, value in tensors.items():
        if flat_name.startswith(prefix + "."):
            parameter, name = flat_name.removeprefix(prefix + ".").split(".")
            state.setdefault(int(parameter), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of the global random generators that a training step draws from."""
    states = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(tensors: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
