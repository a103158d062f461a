"""What is remembered is what was used last, and never weighs more than allowed."""

from bbqrec.serving.cache import RecentlyUsed


def test_the_entries_used_longest_ago_make_room_for_others() -> None:
    cache: RecentlyUsed[str, str] = RecentlyUsed(10)
    for key in "abc":
        cache.put(key, key.upper(), 3)

    assert cache.get("a") == "A"
    cache.put("d", "D", 4)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    cache.put("a", "other", 3)
    cache.drop("c")
    cache.drop("c")
    cache.put("e", "E", 3)
    assert [cache.get(key) for key in "acde"] == ["other", None, "D", "E"]
    cache.put("heavy", "H", 11)
    assert [cache.get(key) for key in ("a", "d", "e", "heavy")] == [None] * 4
