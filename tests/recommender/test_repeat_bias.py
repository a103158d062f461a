"""Items that a user already had are found exactly and scored by how long ago it was."""

import torch
from small_catalogs import LENGTHS, NUM_ITEMS, ONE_PASS, RAGGED, random_model

from bbqrec.ranking import Histories
from bbqrec.recommender.repeat_bias import (
    AGE_LABELS,
    EntryCounts,
    find_repeats,
    following_places,
    repeat_values,
)


def test_repeats_are_what_a_plain_search_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([7, 0, 1, 30, 12])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    histories = Histories(torch.randint(9, (50,), generator=generator), offsets)
    rows = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 4])
    places = torch.tensor([0, 3, 7, 0, 0, 1, 30, 17, 12])

    found = find_repeats(histories, rows, places)

    expected = set()
    for entry, (row, place) in enumerate(zip(rows.tolist(), places.tolist(), strict=True)):
        had = histories.items[offsets[row] : offsets[row] + place].tolist()
        expected |= {(entry, item, had[::-1].index(item) + 1) for item in had}
    assert set(zip(*(x.tolist() for x in found), strict=True)) == expected
    assert len(found.entries) == len(expected)
    known = find_repeats(
        histories,
        rows,
        places,
        following=following_places(histories),
        counts=EntryCounts(int(places.sum()), len(expected), 30),
    )
    assert all(torch.equal(a, b) for a, b in zip(known, found, strict=True))


def test_only_items_of_the_history_are_changed_by_their_age() -> None:
    repeats = find_repeats(RAGGED, torch.arange(4), LENGTHS)
    bias = torch.arange(1.0, len(AGE_LABELS) + 1)

    changed = torch.zeros(4, NUM_ITEMS)
    changed[repeats.entries, repeats.items] = repeat_values(bias, repeats.ages)

    # Of [3, 7, 1, 7, 20] the ages are 5, -, 3, 2, 1: buckets 2, -, 1, 1, 0.
    assert {i: changed[0, i].item() for i in (3, 1, 7, 20)} == {3: 3.0, 1: 2.0, 7: 2.0, 20: 1.0}
    assert changed.count_nonzero(1).tolist() == [4, 2, 4, 0]


def test_items_had_before_the_window_count_as_had() -> None:
    config = ONE_PASS.model_copy(update={"max_history": 2})
    model = random_model(config)
    latest = Histories(RAGGED.items[[3, 4]], torch.tensor([0, 2]))
    whole = Histories(RAGGED.items[:5], torch.tensor([0, 5]))

    with torch.no_grad():
        torch.nn.init.constant_(model.repeat_bias, -50.0)
        seen = model.dense_scores(whole)[0] < -30
        seen_lately = model.dense_scores(latest)[0] < -30

    assert set(seen.nonzero()[:, 0].tolist()) == {3, 7, 1, 20}
    assert set(seen_lately.nonzero()[:, 0].tolist()) == {7, 20}
