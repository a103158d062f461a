"""Batches cut on the device are those that plain loops make, and no step waits for the device."""

from typing import Any

import numpy as np
import pytest
import torch
from small_catalogs import FORMS, NUM_ITEMS, tables_for
from small_datasets import make_dataset, make_sequences
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bbqrec.data import Dataset
from bbqrec.decoding import RankingConfig
from bbqrec.recommender import RecommenderConfig
from bbqrec.training import recommender as recipes
from bbqrec.training.batches import Batch, TrainingHistories
from bbqrec.training.loop import _State, _step
from bbqrec.training.schedule import LoopConfig
from bbqrec.training.windows import cut_prefixes, cut_windows, length_sorted_batches

CPU = torch.device("cpu")


def shoppers() -> Dataset:
    """Who come back for many items; some have had nothing, or one item alone."""
    rng = np.random.default_rng(0)
    lengths = [2, 3, 0, *rng.integers(2, 25, size=60)]
    return make_dataset([rng.integers(0, 12, size=n + 2).tolist() for n in lengths], NUM_ITEMS)


def padded(rows: list[list[int]]) -> list[list[int]]:
    width = max(len(row) for row in rows)
    return [row + [-1] * (width - len(row)) for row in rows]


@pytest.mark.parametrize("windows", ["all", "random", "last"])
@pytest.mark.parametrize("cut", [cut_windows, cut_prefixes])
def test_batches_hold_the_windows_and_what_came_before_each_target(cut: Any, windows: str) -> None:
    train = shoppers().train
    starts, lengths = cut(train, 5, windows, np.random.default_rng(1))
    rows = list(length_sorted_batches(lengths, 7, np.random.default_rng(2)))

    batches = list(TrainingHistories(train, "cpu").batches(starts, lengths, rows))

    assert len(batches) == len(rows)
    for batch, windows_of_batch in zip(batches, rows, strict=True):
        inputs, targets, users, before, had = [], [], [], [], []
        for window in windows_of_batch:
            start, length = int(starts[window]), int(lengths[window])
            span = train.items[start : start + length + 1].tolist()
            inputs.append(span[:-1])
            targets.append(span[1:])
            users.append(int(np.flatnonzero(train.offsets <= start)[-1]))
            before.append(start - int(train.offsets[users[-1]]))
            past = train.row(users[-1]).tolist()
            had += [past[: before[-1] + place] for place in range(1, length + 1)]
        assert batch.items.tolist() == padded(inputs)
        assert batch.targets.tolist() == padded(targets)
        assert batch.lengths.tolist() == [len(row) for row in inputs]
        assert batch.users.tolist() == users
        assert batch.before.tolist() == before
        assert batch.counts.all.tolist() == [len(items) for items in had]
        assert batch.counts.distinct.tolist() == [len(set(items)) for items in had]
        assert batch.num_targets == len(had)
        some = slice(1, 4)
        expected = (
            sum(len(items) for items in had[some]),
            sum(len(set(items)) for items in had[some]),
            max((len(items) for items in had[some]), default=0),
        )
        assert batch.counts.of(some) == expected


def test_where_nobody_had_two_items_there_is_no_batch() -> None:
    nothing = np.zeros(0, np.int64)

    assert not list(
        TrainingHistories(make_sequences([[1], []]), "cpu").batches(nothing, nothing, [])
    )


class WaitsError(AssertionError):
    """An operation whose result a GPU would have to hand over before the next can be asked for."""


# Their results' shapes, or what they return, are numbers that stand on the device.
WAITING = {
    "nonzero", "_local_scalar_dense", "is_nonzero", "masked_select", "equal", "bincount",
    "_unique", "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip


class NoWaitingOperation(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        repeats = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING or by_mask or repeats:
            raise WaitsError(str(function))
        return function(*args, **(kwargs or {}))


class NoWaitingMethod(TorchFunctionMode):
    """What the other cannot see on a CPU, where nothing needs to be moved."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.item):
            raise WaitsError(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > 0, 0.0)[x == 0].sum(),
        lambda x: torch.where(x > 0)[0],
        lambda x: float(x.sum()),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.unique(),
        lambda x: torch.repeat_interleave(x.long()),
        lambda x: x.index_put_((x > 0,), x[0]),
    ],
)
def test_waiting_is_noticed(wait: Any) -> None:
    x = torch.arange(3.0)

    with NoWaitingMethod(), NoWaitingOperation(), pytest.raises(WaitsError):
        wait(x)


def make_recipe(config: RecommenderConfig, **training: Any) -> recipes.RecommenderRecipe:
    return recipes.make_recipe(
        shoppers(),
        tables_for(config),
        config.model_copy(update={"max_history": 6}),
        recipes.TrainingConfig(batch_size=16, precision="fp32", **training),
        RankingConfig(rank_by="generative" if config.form == "paper" else "dense"),
        seed=0,
    )


@pytest.mark.parametrize("max_logits", [2**24, 17 * NUM_ITEMS])
@pytest.mark.parametrize("form", FORMS)
def test_no_training_step_waits_for_the_device(
    form: str, max_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.MAX_LOGITS, "cpu", max_logits)
    recipe = make_recipe(FORMS[form])
    batches, state, sums = recipe.batches(0), _State(), dict[str, Tensor]()
    config = LoopConfig(precision="fp32", log_every=1000)

    def step(batch: Batch) -> None:
        _step(recipe, [batch], config, state, sums, 100, CPU)

    step(next(batches))  # what is made once
    with NoWaitingMethod(), NoWaitingOperation():
        for _ in range(2):
            step(next(batches))

    assert state.step == 3


@pytest.mark.parametrize("form", ["default", "tree", "paper"])
def test_what_is_known_beforehand_changes_no_loss(form: str) -> None:
    recipe = make_recipe(FORMS[form].model_copy(update={"dropout": 0.0, "item_dropout": 0.0}))
    model = recipe.model
    batch = next(recipe.batches(0))

    with torch.no_grad():
        if form == "paper":
            targets = batch.targets[:, 0].clamp(min=0)
            known = model(batch.items, batch.lengths, targets, num_items=batch.num_targets)
            assert torch.equal(known, model(batch.items, batch.lengths, targets))
            return
        known = model(batch.items, batch.targets, num_targets=batch.num_targets)
        counted = model(batch.items, batch.targets)

    assert all(torch.equal(a, b) for a, b in zip(known, counted, strict=True))
    rows, positions = (batch.targets >= 0).nonzero(as_tuple=True)
    assert torch.equal(known.rows, rows)
    assert torch.equal(known.places, positions + 1)
