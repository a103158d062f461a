"""Training curves in the viewer that people have open already: TensorBoard, MLflow or W&B.

The truth is the stage's own log.json; what is written here only repeats it, row by row and anew
from the first row when training resumes. A viewer that fails is left behind with a warning: hours
of training never depend on it.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bbqrec.errors import ConfigError, MissingDependencyError

logger = logging.getLogger(__name__)

FOLDER = "tracking"
PROJECT = "bbqrec"
MAX_PARAMS = 100  # that MLflow takes at once

T = TypeVar("T")


class Target(NamedTuple):
    """Where curves go.

    Args:
        folder: of all tracking of one run.
        name: what the run is called.
        settings: shown beside the curves.
    """

    kind: str
    folder: Path
    name: str
    settings: Mapping[str, Any]


class Board(NamedTuple):
    """One training in one viewer.

    Args:
        write: takes step, name -> value.
        close: is told whether the training came to its end.
    """

    write: Callable[[int, Mapping[str, float]], None]
    close: Callable[[bool], None]


_target: Target | None = None
_said: set[str] = set()  # where the curves of the target are, once for all its trainings


@contextmanager
def tracked_by(kind: str, run_dir: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Within this block every training writes its curves into RUN/tracking.

    Args:
        kind: "tensorboard", "mlflow", "wandb", "none", or "auto": TensorBoard if it is installed.

    Raises:
        ConfigError: there is no such kind.
        MissingDependencyError: its library is not installed.
    """
    global _target
    _said.clear()
    if kind == "auto":
        kind = "tensorboard" if find_spec("tensorboard") else "none"
    if kind != "none":
        _require(kind)
        _target = Target(kind, run_dir / FOLDER, run_dir.resolve().name, settings)
    try:
        yield
    finally:
        _target = None


@contextmanager
def curves(description: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield what takes one training's rows, each with `step` and numbers; where tracking is off,
    they go nowhere."""
    target = _target
    if target is None:
        yield lambda row: None
        return
    board = _attempt(target, lambda: _OPEN[target.kind](target, description))

    def take(row: Mapping[str, Any]) -> None:
        nonlocal board
        if board is None:
            return
        values = {name: float(x) for name, x in row.items() if name not in ("epoch", "step")}
        write, step = board.write, int(row["step"])
        if _attempt(target, lambda: write(step, values) or True) is None:
            board = None

    is_finished = False
    try:
        yield take
        is_finished = True
    finally:
        if board is not None:
            close = board.close
            _attempt(target, lambda: close(is_finished))


def _attempt(target: Target, action: Callable[[], T]) -> T | None:
    """What `action` returns; None, and a warning, where it fails."""
    try:
        return action()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        logger.warning(
            "%s cannot take the training's curves (%s: %s); training goes on, and the curves stay "
            "in the report and in log.json",
            *(target.kind, type(error).__name__, reason),
        )
        return None


def _say(sentence: str) -> None:
    if sentence not in _said:
        _said.add(sentence)
        logger.info("%s", sentence)


def _tensorboard(target: Target, description: str) -> Board:
    from torch.utils.tensorboard import SummaryWriter

    folder = target.folder / "tensorboard" / description.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier training, or of this one's beginning
    writer: Any = SummaryWriter(folder)
    _say(f"curves: tensorboard --logdir {folder.parent}")

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Board(write, lambda is_finished: writer.close())


def _mlflow(target: Target, description: str) -> Board:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    target.folder.mkdir(parents=True, exist_ok=True)
    folder = target.folder.resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.sqlite3'}")
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(PROJECT)
    experiment = (
        found.experiment_id
        if found
        else client.create_experiment(PROJECT, artifact_location=str(folder / "mlflow"))
    )
    run = client.create_run(experiment, run_name=f"{target.name}: {description}").info.run_id
    params = [Param(name, str(value)[:500]) for name, value in _flat(target.settings)]
    for begin in range(0, len(params), MAX_PARAMS):
        client.log_batch(run, params=params[begin : begin + MAX_PARAMS])
    _say(f"curves: mlflow ui --backend-store-uri {uri}")

    def write(step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        named = {name.replace("@", "_at_"): x for name, x in values.items()}  # MLflow's rule
        client.log_batch(run, metrics=[Metric(n, x, now_ms, step) for n, x in named.items()])

    def close(is_finished: bool) -> None:
        client.set_terminated(run, "FINISHED" if is_finished else "KILLED")

    return Board(write, close)


def _wandb(target: Target, description: str) -> Board:
    import wandb

    target.folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=PROJECT,
        name=f"{target.name}: {description}",
        dir=target.folder,
        config=dict(target.settings),
        # Nothing leaves the machine unless whoever started it says so.
        mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
        reinit="create_new",
        settings=wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True
        ),
    )
    _say(f"curves: wandb sync {Path(run.dir).parent}")
    return Board(
        lambda step, values: run.log(dict(values), step=step),
        lambda is_finished: run.finish(exit_code=0 if is_finished else 1),
    )


_OPEN = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
_MODULES = {
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "wandb": ("wandb",),
}


def _require(kind: str) -> None:
    if kind not in _OPEN:
        raise ConfigError(f"--track {kind}: there are auto, {', '.join(_OPEN)} and none")
    for name in _MODULES[kind]:
        found = None
        with suppress(ValueError):  # a module that was put out of reach
            found = find_spec(name)
        if found is None:
            raise MissingDependencyError(
                f"--track {kind} needs {name}: pip install 'bbqrec[{kind}]'"
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
