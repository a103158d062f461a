"""A search that could be captured as a graph: nothing is read back, shapes follow from sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_models import new_session, random_ids
from small_catalogs import FORMS, HISTORIES, LENGTHS, NUM_ITEMS, random_model, random_tables
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bbqrec.decoding import CodeScorer, PrefixIndex, beam_search
from bbqrec.ranking import Histories, Ranking

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Watch(TorchDispatchMode):
    """Refuses operations for which a host waits for its device, and notes the shapes of others."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = func.overloadpacket
        assert operation not in WAITING, f"{func} waits for the device"
        if operation in INDEXING:
            kinds = [index.dtype for index in args[1] if index is not None]
            assert torch.bool not in kinds, f"{func} by a mask waits for the device"
        if operation is aten.repeat_interleave:
            assert kwargs.get("output_size") is not None, f"{func} waits for the device"
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self.shapes.append((str(func), tuple(result.shape)))
        return result


def excluding(*rows: list[int]) -> Histories:
    lengths = torch.tensor([0, *map(len, rows)])
    return Histories(torch.tensor([item for row in rows for item in row]), lengths.cumsum(0))


def watched(
    session: CodeScorer, index: PrefixIndex, excluded: Histories
) -> tuple[Ranking, list[tuple[str, tuple[int, ...]]]]:
    with torch.no_grad(), Watch() as watch:
        found = beam_search(session, index, beam_width=9, k=7, excluded=excluded, is_static=True)
    return found, watch.shapes


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: bool((x > 0).any()),
        lambda x: x.max().item(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.repeat_interleave(x.long()),
        lambda x: x.__setitem__(x > 0, torch.ones(3)),
    ],
)
def test_the_watch_sees_what_waits(waits: Callable[[Tensor], object]) -> None:
    with pytest.raises(AssertionError, match="waits"), Watch():
        waits(torch.tensor([0.0, 1.0, 2.0, 3.0]))


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("share_allowed", [None, 0.5])
def test_a_static_search_never_waits_and_has_the_same_shapes_for_all(
    share_allowed: float | None, coarse: bool
) -> None:
    ids = random_ids(4000, (90, 90, 90), seed=0, skew=4)
    index = PrefixIndex.build(ids)
    if share_allowed is not None:
        generator = torch.Generator().manual_seed(0)
        index = index.restrict(torch.rand(4000, generator=generator) < share_allowed)
    assert any(level.fan_out > level.window for level in index.levels[1:])
    seen = [excluding([1, 2, 3, 3], [], [5, 9]), excluding([], list(range(100, 106)), [])]
    shapes = []
    for seed, excluded in enumerate(seen):
        sessions = [new_session(ids, batch=3, seed=seed, coarse=coarse) for _ in range(2)]
        beam_search(  # some tables are made once
            sessions[0], index, beam_width=9, k=7, excluded=excluded, is_static=True
        )
        expected = beam_search(
            new_session(ids, batch=3, seed=seed, coarse=coarse),
            index,
            beam_width=9,
            k=7,
            excluded=excluded,
            is_static=False,
        )

        found, of_search = watched(sessions[1], index, excluded)

        assert torch.equal(found.items, expected.items)
        assert torch.equal(found.scores, expected.scores)
        shapes.append(of_search)
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", FORMS)
def test_no_decoder_waits_for_its_device_in_a_search(name: str) -> None:
    model = random_model(FORMS[name])
    index = PrefixIndex.build(random_tables().semantic_ids)
    excluded = excluding(*(row[row >= 0].tolist() for row in HISTORIES))
    with torch.no_grad():
        sessions = [model.begin(HISTORIES, LENGTHS) for _ in range(3)]
        options = {"beam_width": 9, "k": 7, "excluded": excluded}
        expected = beam_search(sessions[0], index, **options)
        beam_search(sessions[1], index, **options, is_static=True)

    found, _ = watched(sessions[2], index, excluded)

    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.items.max() < NUM_ITEMS
