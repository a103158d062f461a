"""Curves arrive in the viewers as training logged them, whatever happens in between."""

import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_loop import Regression, run

from bbqrec.errors import ConfigError, MissingDependencyError
from bbqrec.training import tracking
from bbqrec.training.loop import FitResult
from bbqrec.training.tracking import tracked_by

SETTINGS = {"seed": 0, "training": {"learning_rate": 0.1, "note": "x" * 9000}}
SCORES = [1.0, 3.0, 2.0, 0.0]

Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def read_tensorboard(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard" / "test"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def read_mlflow(folder: Path) -> Curves:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.sqlite3'}")
    experiment = client.get_experiment_by_name("bbqrec")
    latest = client.search_runs([experiment.experiment_id], max_results=1)[0]
    assert latest.data.params["training.learning_rate"] == "0.1"
    assert latest.info.status == "FINISHED"
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(latest.info.run_id, name)]
        for name in latest.data.metrics
    }


def wandb_records(content: bytes) -> Iterator[bytes]:
    """A W&B file: 7 bytes of its own, then LevelDB's log: blocks of records, maybe in pieces.

    The last may be half-written, since W&B's service is a process of its own.
    """
    block, header, last = 32_768, struct.Struct("<IHB"), {1, 4}
    place, whole = 7, b""
    while place + header.size <= len(content):
        if block - place % block < header.size:
            place += block - place % block
        _, length, kind = header.unpack_from(content, place)
        piece = content[place + header.size : place + header.size + length]
        if len(piece) < length:
            return
        whole += piece
        place += header.size + length
        if kind in last:
            yield whole
            whole = b""


def read_wandb(folder: Path) -> Curves:
    from wandb.proto.wandb_internal_pb2 import Record

    curves: Curves = {}
    files = [path.read_bytes() for path in folder.glob("wandb/offline-run-*/*.wandb")]
    for data in wandb_records(max(files, key=len)):  # an interrupted one is shorter
        record = Record()
        record.ParseFromString(data)
        values = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        for name in values.keys() - {"_step", "_runtime", "_timestamp"}:
            point = (int(values["_step"]), float(values[name]))
            curves.setdefault(name, []).append(point)
    return curves


READ: dict[str, Callable[[Path], Curves]] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
}


def as_logged(result: FitResult) -> Curves:
    names = result.log[0].keys() - {"epoch", "step"}
    return {name: [(row["step"], row[name]) for row in result.log] for name in names}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's and W&B's own making
@pytest.mark.parametrize("is_interrupted", [False, True], ids=["straight", "resumed"])
@pytest.mark.parametrize("kind", READ)
def test_curves_are_the_log(tmp_path: Path, kind: str, is_interrupted: bool) -> None:
    with tracked_by(kind, tmp_path / "run", SETTINGS):
        if is_interrupted:
            with pytest.raises(KeyboardInterrupt):
                run(Regression(scores=SCORES, fail_at=16), tmp_path / "work")
        result = run(Regression(scores=SCORES), tmp_path / "work")

    expected = as_logged(result)
    deadline = time.monotonic() + 20
    # W&B's service may still be writing.
    while time.monotonic() < deadline:
        found = READ[kind](tmp_path / "run" / "tracking")
        if sum(map(len, found.values())) == sum(map(len, expected.values())):
            break
        time.sleep(0.1)
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points])


def test_auto_is_tensorboard_and_none_writes_nothing(tmp_path: Path) -> None:
    for kind in ("auto", "none"):
        with tracked_by(kind, tmp_path / kind, SETTINGS):
            run(Regression(), None)

    assert read_tensorboard(tmp_path / "auto" / "tracking")
    assert not (tmp_path / "none").exists()


def test_a_later_training_replaces_the_curves_of_the_one_before(tmp_path: Path) -> None:
    for _ in range(2):
        with tracked_by("tensorboard", tmp_path, SETTINGS):
            result = run(Regression(scores=SCORES), None)

    assert len(read_tensorboard(tmp_path / "tracking")["loss"]) == len(result.log)


def fail(self: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fails", ["at once", "later"])
def test_a_viewer_that_fails_does_not_end_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fails: str,
) -> None:
    expected = run(Regression(scores=SCORES), None)
    (tmp_path / "tracking").write_text("a file where the folder should be")
    if fails == "later":
        (tmp_path / "tracking").unlink()
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.flush", fail)

    with tracked_by("tensorboard", tmp_path, SETTINGS):
        result = run(Regression(scores=SCORES), None)

    assert result == expected
    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "training goes on" in warnings[0].getMessage()


@pytest.mark.parametrize(
    ("kind", "module"),
    [("tensorboard", "tensorboard"), ("mlflow", "alembic"), ("wandb", "wandb")],
)
def test_a_missing_library_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with (
        pytest.raises(MissingDependencyError, match=rf"pip install 'bbqrec\[{kind}\]'"),
        tracked_by(kind, tmp_path, SETTINGS),
    ):
        pytest.fail("the block was entered")


def test_an_unknown_viewer_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="auto, tensorboard, mlflow, wandb and none"),
        tracked_by("visdom", tmp_path, SETTINGS),
    ):
        pytest.fail("the block was entered")


def test_tracking_ends_with_the_block(tmp_path: Path) -> None:
    with tracked_by("tensorboard", tmp_path, SETTINGS):
        pass

    run(Regression(), None)

    assert not (tmp_path / "tracking").exists()
    assert tracking._target is None
