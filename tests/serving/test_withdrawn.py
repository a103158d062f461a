"""Whatever is asked, posted, withdrawn and swapped: what is withdrawn is not shown."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbqrec.bundle import RunFolder
from bbqrec.data import Collected
from bbqrec.errors import NotFoundError
from bbqrec.news import News
from bbqrec.recommend import Recommender
from bbqrec.serving import Options, PostedItem, Version
from bbqrec.update import update_run

POSTED = [f"posted {number}" for number in range(3)]


@pytest.fixture(scope="module")
def versions(run: Path) -> tuple[Version, Version]:
    """A run with posted items, and its update that has learned one of them and withdrawn three."""
    root = shutil.copytree(run, run.parent / "withdrawing")
    dataset = RunFolder(root).dataset()
    items = [
        PostedItem(item_id, dataset.titles[place], None, None)
        for place, item_id in enumerate(POSTED)
    ]
    before = Version.load(root, items, ())
    gone = frozenset((*dataset.item_ids[3:5], POSTED[0]))
    update_run(root, News(collected=Collected(items=items[:1], withdrawn=gone)))
    after = Version.load(root, items, ())
    assert after.withdrawn == gone
    assert POSTED[0] in Recommender.from_pretrained(root).item_of_id
    return before, after


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_withdrawn_item_never_appears(
    versions: tuple[Version, Version], data: st.DataObject
) -> None:
    version = data.draw(st.sampled_from(versions))
    catalog = sorted(version.recommender.item_of_id)
    some = st.lists(st.sampled_from(catalog), max_size=30)
    for _ in range(data.draw(st.integers(1, 3))):  # the list is replaced as a whole each time
        withdrawn = frozenset(data.draw(some))
        version = version.with_withdrawn(withdrawn)
    histories = [tuple(data.draw(some)), ()]
    options = Options(
        data.draw(st.integers(1, len(catalog) + 5)),
        exclude_seen=data.draw(st.booleans()),
        allow=data.draw(st.none() | some.map(frozenset)),
        exclude=frozenset(data.draw(some)),
        beam_width=data.draw(st.none() | st.integers(1, 60)),
    )

    answers = version.recommend(histories, options)

    for answer in answers:
        listed = {item.item_id for item in answer.items}
        assert not listed & withdrawn
        assert options.allow is None or listed <= options.allow
    for item_id in sorted(withdrawn)[:3]:
        with pytest.raises(NotFoundError):
            version.item(item_id)
    for item_id in [i for i in catalog if i not in withdrawn][:3]:
        assert not {item.item_id for item in version.similar(item_id, 1000)} & withdrawn


def test_what_an_update_withdrew_is_not_shown_by_the_run_itself_either(
    versions: tuple[Version, Version],
) -> None:
    _, after = versions
    recommender = Recommender.load(after.run)
    histories = list(recommender.histories().values())[:40]

    answers = recommender.recommend(histories, k=58, exclude_seen=False)
    fallback = recommender.recommend([[]], k=50)
    asked_for = recommender.recommend([[]], k=5, allowed=sorted(after.withdrawn))

    shown = {item.item_id for answer in (*answers, *fallback, *asked_for) for item in answer.items}
    assert not shown & after.withdrawn
    assert len(shown) > 50
