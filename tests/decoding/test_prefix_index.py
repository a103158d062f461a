from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import new_session, random_ids

from bbqrec.decoding import PrefixIndex, beam_search
from bbqrec.ranking import Histories
from bbqrec.semantic_ids import SemanticIds

num_items = st.integers(1, 40)
codebook_sizes = st.lists(st.sampled_from([1, 2, 3, 256, 257, 40_000]), min_size=1, max_size=4).map(
    tuple
)
seeds = st.integers(0, 2**31)


def items_below(ids: SemanticIds, level: int) -> dict[tuple[int, ...], list[int]]:
    """The trie as a dictionary: every prefix of this many codes with its items."""
    below = defaultdict(list)
    for item, codes in enumerate(ids.codes.tolist()):
        below[tuple(codes[:level])].append(item)
    return dict(sorted(below.items()))


def prefixes(index: PrefixIndex) -> list[list[tuple[int, ...]]]:
    """The prefix at every node of every level, read by walking the index from its root."""
    found: list[list[tuple[int, ...]]] = [[()]]
    for level in index.levels:
        assert 0 < level.window <= min(32, level.fan_out)
        bounds, codes = level.first_edge.tolist(), level.codes.tolist()
        assert bounds[0] == 0
        assert bounds[-1] == len(codes)
        found.append(
            [
                (*prefix, code)
                for prefix, begin, end in zip(found[-1], bounds, bounds[1:], strict=False)
                for code in codes[begin:end]
            ]
        )
    return found


@settings(deadline=None, max_examples=50)
@given(num_items, codebook_sizes, seeds)
def test_the_index_is_the_trie_of_the_catalog_and_nothing_else(
    num_items: int, codebook_sizes: tuple[int, ...], seed: int
) -> None:
    ids = random_ids(num_items, codebook_sizes, seed=seed)
    index = PrefixIndex.build(ids)

    *inner, leaves = prefixes(index)

    for level, nodes in enumerate(inner):
        assert nodes == list(items_below(ids, level))
    expected = sorted((tuple(codes), item) for item, codes in enumerate(ids.codes.tolist()))
    assert list(zip(leaves, index.items.tolist(), strict=True)) == expected
    assert index.items[index.places].tolist() == list(range(len(ids)))


@settings(deadline=None, max_examples=50)
@given(num_items, codebook_sizes, seeds, st.data())
def test_an_edge_is_open_when_an_allowed_item_lies_behind_it(
    num_items: int, codebook_sizes: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    ids = random_ids(num_items, codebook_sizes, seed=seed)
    one, other = (
        data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))) for _ in range(2)
    )
    allowed = [a and b for a, b in zip(one, other, strict=True)]

    index = PrefixIndex.build(ids).restrict(torch.tensor(one)).restrict(torch.tensor(other))

    assert len(index) == sum(allowed)
    assert index.num_items == len(ids)
    assert index.are_open(torch.arange(len(ids))).tolist() == allowed
    nodes = prefixes(index)
    for depth, level in enumerate(index.levels[:-1], start=1):
        below = items_below(ids, depth)
        expected = [any(allowed[item] for item in below[prefix]) for prefix in nodes[depth]]
        assert level.is_open.tolist() == expected
    assert index.levels[-1].is_open.tolist() == [allowed[i] for i in index.items.tolist()]


@pytest.mark.parametrize("share_allowed", [None, 0.7])
@pytest.mark.parametrize("skew", [1, 6])
@pytest.mark.parametrize("is_static", [False, True])
def test_the_windows_below_a_node_hold_its_open_children_each_once(
    is_static: bool, share_allowed: float | None, skew: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = (torch.rand((3000, 3), generator=generator) ** skew * 200).long()
    index = PrefixIndex.build(SemanticIds(codes, (200, 200, 200)))
    if share_allowed is not None:
        index = index.restrict(torch.rand(3000, generator=generator) < share_allowed)
    for level in index.levels:
        order = torch.rand((4, level.num_nodes), generator=generator).argsort(1)
        nodes = F.pad(order, (0, 9))[:, :9]  # those that are alive differ
        is_alive = torch.rand((4, 9), generator=generator) < 0.8
        is_alive[:, level.num_nodes :] = False
        bounds, is_open = level.first_edge.tolist(), level.is_open.tolist()
        codes_of = level.codes.tolist()

        below = level.below(nodes, is_alive if is_static else None)

        if is_static:
            every = level.below(nodes, torch.ones_like(is_alive))
            assert below.codes.shape == every.codes.shape
        found = defaultdict(list)
        for user, row, slot in (below.mask == 0).nonzero().tolist():
            edge = int(below.first_edge[user, row]) + slot
            found[user, int(below.beam[user, row])].append(edge)
            assert below.codes[user, row, slot] == codes_of[edge]
        for user, beams in enumerate(nodes.tolist()):
            for beam, node in enumerate(beams):
                expected = [e for e in range(bounds[node], bounds[node + 1]) if is_open[e]]
                assert found[user, beam] == (
                    expected if is_alive[user, beam] or not is_static else []
                )
                assert level.num_open_children(torch.tensor([node])).tolist() == [len(expected)]


@settings(deadline=None, max_examples=50)
@given(num_items, st.integers(1, 40), codebook_sizes, seeds, st.booleans())
def test_adding_items_equals_building_with_them(
    num_old: int, num_new: int, codebook_sizes: tuple[int, ...], seed: int, is_restricted: bool
) -> None:
    ids = random_ids(num_old + num_new, codebook_sizes, seed=seed)
    allowed = torch.rand(num_old, generator=torch.Generator().manual_seed(seed)) < 0.6
    old = PrefixIndex.build(SemanticIds(ids.codes[:num_old], codebook_sizes))
    expected = PrefixIndex.build(ids)
    if is_restricted and not allowed.all():
        old = old.restrict(allowed)
        expected = expected.restrict(F.pad(allowed, (0, num_new), value=True))

    index = old.add(ids.codes[num_old:])

    assert_same(index, expected)


def assert_same(index: PrefixIndex, expected: PrefixIndex) -> None:
    """Not only the same answers: the same arrays."""
    assert index.items.tolist() == expected.items.tolist()
    assert index.places.tolist() == expected.places.tolist()
    assert (index.num_items, len(index)) == (expected.num_items, len(expected))
    for level, expected_level in zip(index.levels, expected.levels, strict=True):
        assert (level.fan_out, level.window) == (expected_level.fan_out, expected_level.window)
        assert level.padded_codes.tolist() == expected_level.padded_codes.tolist()
        assert level.first_edge.tolist() == expected_level.first_edge.tolist()
        assert level.is_open.tolist() == expected_level.is_open.tolist()


@settings(deadline=None, max_examples=60)
@given(codebook_sizes, seeds, st.data())
def test_adding_and_removing_in_any_order_equals_building_anew(
    codebook_sizes: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    ids = random_ids(60, codebook_sizes, seed=seed)
    num_items, allowed = 15, torch.arange(60) < 15
    index = PrefixIndex.build(SemanticIds(ids.codes[:num_items], codebook_sizes))
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            num_new = data.draw(st.integers(1, min(7, 60 - num_items)))
            index = index.add(ids.codes[num_items : num_items + num_new])
            allowed[num_items : num_items + num_new] = True
            num_items += num_new
        else:  # with repetitions, and some that are gone already
            gone = data.draw(st.lists(st.integers(0, num_items - 1), max_size=40))
            index = index.remove(torch.tensor(gone, dtype=torch.int64))
            allowed[gone] = False

    anew = PrefixIndex.build(SemanticIds(ids.codes[:num_items], codebook_sizes))
    anew = anew.restrict(allowed[:num_items])
    assert_same(index, anew)
    session, other = (new_session(ids, batch=2, seed=seed % 1000) for _ in range(2))
    found = beam_search(session, index, beam_width=4, k=9)
    expected = beam_search(other, anew, beam_width=4, k=9)
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("num_closed", [0, 3, 900])
@pytest.mark.parametrize("start", [0, 40_000])
def test_a_mask_that_comes_again_is_not_worked_out_again(
    num_closed: int, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbqrec.decoding.prefix_index.REMOVE_START", start)
    index = PrefixIndex.build(random_ids(1000, (8, 8, 8), seed=0))
    allowed = torch.arange(1000) >= num_closed
    expected = index.restrict(allowed)

    found = index.only(allowed)

    assert_same(found, expected)
    assert index.only(allowed.clone()) is found
    for number in range(3):  # others do not push it out at once
        index.only(torch.arange(1000) != 999 - number)
    assert index.only(allowed) is found
    allowed[500] = ~allowed[500]  # the same tensor, another mask
    assert_same(index.only(allowed), index.restrict(allowed))


@settings(deadline=None, max_examples=50)
@given(num_items, codebook_sizes, seeds, st.booleans(), st.data())
def test_an_edge_is_blocked_when_only_excluded_items_lie_behind_it(
    num_items: int,
    codebook_sizes: tuple[int, ...],
    seed: int,
    is_static: bool,
    data: st.DataObject,
) -> None:
    ids = random_ids(num_items, codebook_sizes, seed=seed)
    some_item = st.integers(0, len(ids) - 1)
    rows = data.draw(st.lists(st.lists(some_item, max_size=60), min_size=1, max_size=4))
    lengths = torch.tensor([0, *map(len, rows)])
    flat = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    allowed = torch.rand(len(ids), generator=torch.Generator().manual_seed(len(flat))) < 0.8
    index = PrefixIndex.build(ids).restrict(allowed)

    blocked = index.blocked_by(Histories(flat, lengths.cumsum(0)), is_static=is_static)

    nodes = prefixes(index)
    for depth, level in enumerate(blocked):
        is_last = depth == ids.num_levels - 1
        names = index.items.tolist() if is_last else nodes[depth + 1]
        found = sorted(
            (user, names[edge])
            for user, edge in zip(level.users.tolist(), level.edges.tolist(), strict=True)
            if edge >= 0 or not is_static
        )
        assert not is_static or len(level.edges) == len(flat)
        below = items_below(ids, depth + 1)
        reachable = {name: {i for i in items if allowed[i]} for name, items in below.items()}
        if is_last:
            reachable = {i: {i} for items in reachable.values() for i in items}
        expected = sorted(
            (user, name)
            for user, row in enumerate(rows)
            for name, items in reachable.items()
            if items and items <= set(row)
        )
        assert found == expected


def test_a_code_takes_one_byte_where_the_codebook_allows_it() -> None:
    ids = random_ids(20_000, (256, 256, 256, 257), seed=0)

    index = PrefixIndex.build(ids)

    assert [level.codes.element_size() for level in index.levels] == [1, 1, 1, 2]
    assert index.num_bytes / len(ids) < 16


def test_an_index_already_on_its_device_is_not_copied() -> None:
    index = PrefixIndex.build(random_ids(5, (3, 3), seed=0))

    assert index.to("cpu") is index
