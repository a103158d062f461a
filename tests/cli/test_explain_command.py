"""`bbqrec explain` says for people and for programs what the library says."""

from pathlib import Path

import pytest
from command_line import COMMA, answer, invoke, refusal

from bbqrec.bundle import RunFolder
from bbqrec.explain import Explainer
from bbqrec.recommend import Recommender


@pytest.fixture(scope="module")
def recommender(finished: Path) -> Recommender:
    return Recommender.from_pretrained(finished)


def test_the_best_items_are_explained_with_the_librarys_numbers(
    finished: Path, recommender: Recommender
) -> None:
    history = [COMMA, "i7", "nonsense", "i8"]
    ask = ("explain", finished, "--history", f'["{COMMA}", "i7", "nonsense", "i8"]')

    found = answer(*ask, "-k", "3")
    other = answer(*ask, "--item", "i9", "--item", "i7")

    best = recommender.recommend([history], k=3)[0].items
    assert [row["item_id"] for row in found] == [item.item_id for item in best]
    assert [row["item_id"] for row in other] == ["i9", "i7"]
    explainer = Explainer.of_run(RunFolder(finished), recommender)
    for rows in (found, other):
        expected = explainer.explain(history, [row["item_id"] for row in rows])
        for row, explanation in zip(rows, expected, strict=True):
            shown = row["explanation"]
            assert shown["score"] == pytest.approx(explanation.score, abs=1e-4)
            assert [p["item_id"] for p in shown["history"]] == [COMMA, "i7", "i8"]
            assert [p["left_out"] for p in shown["history"]] == pytest.approx(
                [p.left_out for p in explanation.history], abs=1e-4
            )
            assert shown["parts"]["codes"] == pytest.approx(explanation.parts.codes, abs=1e-4)


def test_the_table_says_it_in_words_and_obeys_no_markup(
    finished: Path, recommender: Recommender
) -> None:
    user_id = next(user for user, items in recommender.histories().items() if "i8" in items)

    shown = invoke("explain", finished, "--user", user_id, "--item", "i8").stdout

    assert "[/x]" in shown
    assert "log-probability" in shown
    for words in ("what the logit is made of", "what the history did", "how its semantic ID"):
        assert words in shown
    assert "taken before" in shown


def test_what_cannot_be_explained_is_refused_in_one_sentence(finished: Path) -> None:
    cases = [
        (("--history", "i6", "--item", "zz"), "there is no item 'zz' in the catalog of 40 items"),
        (("--history", "zz", "--item", "i6"), "nothing in the history is in the catalog"),
        (("--history", "zz"), "none of the 1 items in the history is in the catalog"),
        (("--user", "zz"), "the run has no user 'zz'"),
        ((), "give either --user or --history"),
    ]
    for arguments, words in cases:
        assert words in refusal("explain", finished, *arguments, "-q")


def test_a_saved_model_is_explained_by_titles_alone(
    finished: Path, recommender: Recommender, tmp_path: Path
) -> None:
    recommender.save_pretrained(tmp_path / "saved")
    ask = ("--history", "i7,i8", "--item", "i9")

    saved = answer("explain", tmp_path / "saved", *ask)[0]["explanation"]
    whole = answer("explain", finished, *ask)[0]["explanation"]

    assert saved["score"] == pytest.approx(whole["score"], abs=1e-5)
    assert [step["code"] for step in saved["levels"]] == [step["code"] for step in whole["levels"]]
