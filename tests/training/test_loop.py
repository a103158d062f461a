"""Training resumes bitwise, keeps the best weights, and stops when it diverges."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bbqrec import progress
from bbqrec.errors import ConfigError, TrainingDivergedError
from bbqrec.training.loop import FitResult, fit, num_epochs
from bbqrec.training.schedule import USUAL_PATIENCE, LoopConfig, learning_rate_share

CPU = torch.device("cpu")


class Regression:
    """Dropout regression with a second optimizer stepped inside, and a hook for faults."""

    def __init__(
        self,
        *,
        fail_at: int | None = None,
        fail_in: int | None = None,
        scores: list[float] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        inner = nn.Linear(4, 1)
        self.model.add_module("inner", inner)
        main = [p for name, p in self.model.named_parameters() if not name.startswith("inner")]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "main": torch.optim.AdamW(main, lr=0.1),
            "inner": torch.optim.AdamW(inner.parameters(), lr=0.01),
        }
        self.steps = self.batches_seen = 0
        self.fail_at, self.fail_in = fail_at, fail_in
        self.scores = scores

    def start_epoch(self, epoch: int) -> None:
        pass

    def num_batches(self, epoch: int) -> int:
        return 7

    def batches(self, epoch: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(7):
            yield torch.randn(8, 4, generator=generator)

    def inner_steps(self, batch: Tensor) -> None:
        loss = (self.model.inner(batch) - batch.sum(1, keepdim=True)).square().mean()
        loss.backward()
        self.optimizers["inner"].step()
        self.optimizers["inner"].zero_grad()

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        self.batches_seen += 1
        if self.batches_seen == self.fail_in:
            os.kill(os.getpid(), signal.SIGTERM)
        prediction = self.model[2](self.model[1](self.model[0](batch)))
        return {"fit": (prediction - batch.sum(1, keepdim=True)).square().mean()}

    def after_step(self, batch: Tensor) -> None:
        self.steps += 1
        if self.steps == self.fail_at:
            os.kill(os.getpid(), signal.SIGINT)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {"score": self.scores[epoch]} if self.scores else {}


def run(
    recipe: Regression, work_dir: Path | None, *, is_trained: bool = False, **settings: Any
) -> FitResult:
    return fit(
        recipe,
        LoopConfig(epochs=4, warmup_steps=3, log_every=2, **settings),
        device=CPU,
        work_dir=work_dir,
        identity={"a": 1},
        description="test",
        is_trained=is_trained,
    )


@pytest.mark.parametrize("fail_at", [1, 6, 7, 8, 20, 28])
def test_an_interrupted_run_resumes_bitwise(tmp_path: Path, fail_at: int) -> None:
    straight = Regression(scores=[1, 3, 2, 0])
    expected = run(straight, None)

    interrupted = Regression(fail_at=fail_at, scores=[1, 3, 2, 0])
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, tmp_path)
    resumed = Regression(scores=[1, 3, 2, 0])
    result = run(resumed, tmp_path)

    assert result == expected
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("fail_in", [1, 2, 3, 5, 7, 8, 27])
def test_a_run_interrupted_between_the_batches_of_a_step_resumes_bitwise(
    tmp_path: Path, fail_in: int
) -> None:
    """Seven batches are two steps of three, and one of one."""
    straight = Regression(scores=[1, 3, 2, 0])
    expected = run(straight, None, accumulate=3)

    interrupted = Regression(fail_in=fail_in, scores=[1, 3, 2, 0])
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, tmp_path, accumulate=3)
    resumed = Regression(scores=[1, 3, 2, 0])
    result = run(resumed, tmp_path, accumulate=3)

    assert result == expected
    assert interrupted.batches_seen - fail_in < 3  # the step was finished, and no other begun
    assert interrupted.batches_seen + resumed.batches_seen == 4 * 7
    assert result.steps == straight.steps == 4 * 3
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(("accumulate", "size"), [(1, 8), (2, 4), (4, 4), (8, 1)])
def test_accumulated_batches_are_one_large_one(accumulate: int, size: int) -> None:
    """24 rows an epoch; four batches of four leave two for the last step."""
    steps = [range(0, 24, size)[i : i + accumulate] for i in range(0, 24 // size, accumulate)]
    large = [[(group[0], group[-1] + size)] for group in steps]
    small = [[(row, row + size) for row in group] for group in steps]

    def trained(
        groups: list[list[tuple[int, int]]], accumulate: int
    ) -> tuple[nn.Module, FitResult]:
        recipe = Regression()
        recipe.model[1].p = 0.0
        bounds = [bound for group in groups for bound in group]
        rows = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
        recipe.num_batches = lambda epoch: len(bounds)  # type: ignore[method-assign]
        recipe.batches = lambda epoch: iter([rows[a:b] for a, b in bounds])  # type: ignore[method-assign]
        recipe.inner_steps = lambda batch: None  # type: ignore[method-assign]
        # In bf16, which some processors would choose, batches of other sizes round otherwise.
        return recipe.model, run(recipe, None, accumulate=accumulate, precision="fp32")

    expected, expected_result = trained(large, 1)
    found, result = trained(small, accumulate)

    assert result.steps == expected_result.steps == 4 * len(steps)
    for row, expected_row in zip(result.log, expected_result.log, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-4)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path) -> None:
    expected = run(Regression(scores=[1, 2, 3, 4]), None)
    for stop in (9, 3):
        with pytest.raises(KeyboardInterrupt):
            run(Regression(fail_at=stop, scores=[1, 2, 3, 4]), tmp_path)
    newest = sorted(tmp_path.glob("step-*"))[-1] / "tensors.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(bytes(content))

    assert len(list(tmp_path.glob("step-*"))) == 2
    assert run(Regression(scores=[1, 2, 3, 4]), tmp_path) == expected


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    run(Regression(), tmp_path)

    with pytest.raises(ConfigError, match="another run"):
        fit(
            Regression(),
            LoopConfig(epochs=5),
            device=CPU,
            work_dir=tmp_path,
            identity={"a": 2},
            description="test",
        )


def test_a_line_of_progress_has_the_epoch_and_the_best_of_when_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    caplog.set_level("INFO", logger="bbqrec.progress")

    result = run(Regression(scores=[1, 3, 2, 0]), None)

    lines = [line.partition("epoch ")[2] for line in caplog.messages if line.startswith("test: ")]
    assert lines[0] == "1"
    assert lines[6].startswith("1, loss ")
    assert [line[0] for line in lines] == [epoch for epoch in "1234" for _ in range(7)]
    assert [line[-6:] for line in lines[7::7]] == ["1.0000", "3.0000", "3.0000"]
    # Step 15 is the first of epoch 3, and none at which a loss is read back.
    assert lines[14] == f"3, loss {result.log[1]['loss']:.3f}, best 3.0000"


def test_the_best_epoch_is_kept_and_patience_stops(tmp_path: Path) -> None:
    recipe = Regression(scores=[1, 3, 2, 0])
    result = run(recipe, tmp_path, patience=1)

    assert result.best_epoch == 1
    assert len(result.log) == len(result.peak_mb) == 3
    assert 50 < result.peak_mb[0] <= result.peak_mb[-1] < 1e5  # of a process that loaded torch
    every_epoch = Regression(scores=[0, 1, 2, 3])
    run(every_epoch, None)
    assert not torch.equal(every_epoch.model[0].weight, recipe.model[0].weight)


@pytest.mark.parametrize(("last", "best"), [(9.0, -1), (2.5, 1), (0.0, 1)])
def test_weights_to_go_on_from_are_kept_unless_an_epoch_is_better(
    tmp_path: Path, last: float, best: int
) -> None:
    """The score before the first epoch is that of epoch -1."""
    scores = [1.0, 3.0, 2.0, 0.0, last]
    before = Regression().model.state_dict()
    straight = Regression(scores=scores)
    expected = run(straight, None, is_trained=True, patience=2)
    with pytest.raises(KeyboardInterrupt):
        run(Regression(scores=scores, fail_at=10), tmp_path, is_trained=True, patience=2)
    resumed = Regression(scores=scores)

    assert run(resumed, tmp_path, is_trained=True, patience=2) == expected
    assert (expected.best_epoch, expected.start) == (best, {"score": last})
    assert len(expected.log) == (2 if best < 0 else 4)
    is_kept = all(torch.equal(x, before[name]) for name, x in straight.model.state_dict().items())
    assert is_kept == (best < 0)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    recipe = Regression()
    losses = recipe.losses
    recipe.losses = lambda batch: {"fit": losses(batch)["fit"] * torch.inf}  # type: ignore[method-assign]

    with pytest.raises(TrainingDivergedError, match="step 2"):
        run(recipe, tmp_path)


def test_little_data_is_trained_for_more_epochs_unless_told_otherwise() -> None:
    recipe = Regression()

    assert num_epochs(recipe, LoopConfig()) == 215  # of 7 batches: 1,500 steps
    assert num_epochs(recipe, LoopConfig(epochs=3)) == 3
    assert num_epochs(recipe, LoopConfig(accumulate=3)) == 500  # of 3 steps
    recipe.num_batches = lambda epoch: 400
    assert num_epochs(recipe, LoopConfig()) == 10


def test_the_warm_up_never_fills_a_short_training() -> None:
    rates = [learning_rate_share(step, 20, LoopConfig()) for step in range(20)]

    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] < 0.15


def test_what_begins_late_warms_up_to_the_rate_of_the_rest() -> None:
    config = LoopConfig(warmup_steps=5)
    usual = [learning_rate_share(step, 100, config) for step in range(100)]
    late = [learning_rate_share(step, 100, config, after=0.6) for step in range(100)]

    assert late[:60] == [0] * 60
    assert late[60:65] == pytest.approx([usual[60 + n] * (n + 1) / 5 for n in range(5)])
    assert late[65:] == usual[65:]


@pytest.mark.parametrize(("epochs", "trained"), [(None, 1 + USUAL_PATIENCE), (30, 30)])
def test_what_was_known_by_heart_long_ago_is_not_trained_on(
    epochs: int | None, trained: int
) -> None:
    recipe = Regression(scores=[0.5] + [0.1] * 200)

    config = LoopConfig(epochs=epochs)
    result = fit(recipe, config, device=CPU, work_dir=None, identity={}, description="by heart")

    assert len(result.log) == trained
    assert result.best_epoch == 0
