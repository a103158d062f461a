"""An explanation in a real browser, and runs without pictures."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from looking import Look, get, names, offers, settled
from on_socket import on_socket
from playwright.sync_api import Page, expect
from tiny_run import GENERATES, tiny_config

from bbqrec.bundle import RunFolder
from bbqrec.pipeline import run_stages
from bbqrec.serving import EventStore, ServeConfig, Service

AUDIT = (Path(__file__).parent / "audit.js").read_text()


@pytest.fixture(scope="module")
def wordy_site(wordy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = EventStore(str(tmp_path_factory.mktemp("wordy-site") / "events.sqlite3"))
    with on_socket(Service(wordy, store, ServeConfig())) as address:
        yield address


@pytest.fixture(scope="module")
def site_by_codes(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its items are found by codes alone."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("by-codes") / "run")
    by_codes = {**GENERATES, "recommender": {"decoder": "light"}}
    run_stages(RunFolder(folder), tiny_config(**by_codes), source=None, until="train")
    with on_socket(Service(folder, EventStore(str(folder / "events")), ServeConfig())) as address:
        yield address


def explained(address: str, place: int) -> dict[str, Any]:
    """What the API says of one recommendation after the first example."""
    history = [item["item_id"] for item in get(address, "/v1/catalog")["examples"][0]]
    body = {"histories": [history], "k": place + 1, "explain": True}
    answer = httpx.post(f"{address}/v1/recommend", json=body).json()["answers"][0]
    found: dict[str, Any] = answer["items"][place]["explanation"]
    return found


def ask_why(page: Page, place: int) -> None:
    page.locator(".examples button").first.click()
    settled(page)
    page.get_by_role("button", name="Why ").nth(place).click()
    page.wait_for_selector(".why h3")


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").removesuffix("%"))


def in_parts(page: Page) -> dict[str, float]:
    texts = names(page.locator(".sums dd:not(.track)"))
    return dict(zip(names(page.locator(".sums dt")), map(number, texts), strict=True))


def test_a_score_is_shown_in_parts_that_add_up(wordy_site: str, look: Look) -> None:
    expected = explained(wordy_site, 1)
    page = look(wordy_site)
    ask_why(page, 1)

    shown = in_parts(page)
    assert shown["its text"] == pytest.approx(expected["parts"]["content"]["text"], abs=0.006)
    assert shown["its codes"] == pytest.approx(expected["parts"]["codes"], abs=0.006)
    assert sum(shown.values()) == pytest.approx(expected["logit"], abs=0.05)
    assert page.locator(".read > li").count() == len(expected["history"])
    effects = [number(text.removeprefix("× ")) for text in names(page.locator(".effect"))]
    for factor, event in zip(effects, expected["history"], strict=True):
        assert factor == pytest.approx(2.718281828 ** event["left_out"], rel=0.06, abs=0.006)
    assert page.evaluate(AUDIT) == []


def test_so_is_that_of_an_item_that_was_found_on_a_walk(site: str, look: Look) -> None:
    expected = explained(site, 0)
    page = look(site)
    ask_why(page, 0)

    shown = in_parts(page)
    of_tree = shown.pop("its place in the tree of IDs")
    of_neighbors = shown.pop("likeness to the history")
    assert of_tree == pytest.approx(expected["parts"]["tree"], abs=0.006)
    assert of_neighbors == pytest.approx(expected["parts"]["neighbors"], abs=0.006)
    assert of_tree + of_neighbors + sum(shown.values()) == pytest.approx(
        expected["logit"], abs=0.05
    )
    assert any(event["neighbor"] for event in expected["history"])


def test_no_label_is_cut_off_on_a_phone(site: str, look: Look) -> None:
    page = look(site, viewport={"width": 390, "height": 800}, has_touch=True)
    ask_why(page, 0)

    assert page.locator(".ladder .label").count() > 3
    cut = page.evaluate(
        """() => [...document.querySelectorAll(".ladder .label, .read .name")].filter(
            (e) => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight + 1
        ).map((e) => e.textContent)"""
    )
    assert cut == []
    assert page.evaluate("() => document.querySelector('dialog').scrollWidth") <= 390


def test_it_is_said_why_attention_and_effect_need_not_agree(
    wordy_site: str, site_by_codes: str, look: Look
) -> None:
    expected = explained(wordy_site, 1)
    page = look(wordy_site)
    ask_why(page, 1)
    words = page.locator(".why section", has_text="What it read").locator("> .quiet")

    expect(words).to_contain_text("The two need not agree")
    expect(words).to_contain_text("near neighbors add to the score themselves")
    assert all("behavior" in event["neighbor"] for event in expected["history"])
    assert expected["parts"]["repeat"] == 0
    assert "repeats" not in words.inner_text()
    for shown, event in zip(page.locator(".read > li").all(), expected["history"], strict=True):
        is_latest = event is expected["history"][-1]
        likeness = "for being the latest" if is_latest else "for likeness to the latest"
        biases = event["similarity_bias"].values()
        lines = names(shown.locator(".because li"))
        told = {line.split(":")[0] for line in lines if "attention" in line}
        assert told == {
            f"{word} attention {likeness}"
            for word, sign in (("more", 1), ("less", -1))
            if any(sign * bias >= 0.005 for bias in biases)
        }
    by_codes = look(site_by_codes)
    ask_why(by_codes, 0)
    assert by_codes.locator(".sums").count() == 0
    words = by_codes.locator(".why section", has_text="What it read").locator("> .quiet")
    expect(words).to_contain_text("what the model took from it before that layer.")


def test_codes_are_shown_level_by_level_with_runners_up(site: str, look: Look) -> None:
    expected = explained(site, 0)
    page = look(site, color_scheme="dark", viewport={"width": 320, "height": 700})
    ask_why(page, 0)

    ladder = page.locator(".ladder > li")
    for shown, level in zip(ladder.all(), expected["levels"], strict=True):
        codes = [level["code"], *(runner["code"] for runner in level["runners_up"])]
        assert names(shown.locator(".code")) == [str(code) for code in codes]
        chance = number(shown.locator(".chosen .number").inner_text()) / 100
        assert chance == pytest.approx(2.718281828 ** level["log_probability"], rel=0.06)
    assert page.evaluate("() => document.querySelector('dialog').scrollWidth") <= 320


def test_the_explanation_closes_by_key_and_gives_the_focus_back(site: str, look: Look) -> None:
    page = look(site)
    ask_why(page, 2)
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")

    page.keyboard.press("Escape")

    expect(page.locator("dialog")).to_have_count(0)
    assert page.evaluate("document.activeElement.dataset.key") == "why 2"


def test_what_stands_further_down_is_explained_too(site: str, look: Look) -> None:
    page = look(site)
    ask_why(page, 11)

    expect(page.locator(".explained h2")).to_have_text(offers(page)[11])
    assert page.locator(".ladder > li").count() == 3


def test_what_is_popular_has_no_reasons(site: str, look: Look) -> None:
    page = look(site)

    assert len(offers(page)) == 12
    assert page.get_by_role("button", name="Why ").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_without_pictures_titles_are_shown(scheme: str, wordy_site: str, look: Look) -> None:
    page = look(wordy_site, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    titles = offers(page)

    assert names(page.locator(".offer .card")) == titles
    assert page.evaluate(AUDIT) == []
    page.locator(".examples button").first.click()
    settled(page)
    assert page.evaluate(AUDIT) == []
    page.goto(f"{wordy_site}/#/tree")
    page.wait_for_selector(".branch")
    assert page.evaluate(AUDIT) == []
    assert page.locator("main img").count() == 0
    assert not any("/v1/pictures" in url for url in asked)


def test_titles_in_place_of_pictures_are_hidden_by_nothing(site: str, look: Look) -> None:
    """An item without a picture among items with one."""
    page = look(site)
    page.route("**/v1/pictures/**", lambda route: route.fulfill(status=404))
    page.reload()
    page.wait_for_selector(".offer .card")
    ask_why(page, 0)

    boxes = page.evaluate(
        """() => [...document.querySelectorAll(".offer .card, .strip .card")].map(
            (card) => {
              const words = document.createRange();
              words.selectNodeContents(card);
              const text = words.getBoundingClientRect();
              const box = card.getBoundingClientRect();
              const others = [...(card.closest("li")?.querySelectorAll(".place, .remove") ?? [])];
              const isCovered = others.map((other) => other.getBoundingClientRect()).some(
                (b) => b.left < text.right && text.left < b.right
                    && b.top < text.bottom && text.top < b.bottom);
              return { kind: card.parentElement.className, isCovered,
                       lines: text.height / parseFloat(getComputedStyle(card).lineHeight),
                       words: card.textContent.split(/[ -]/).length,
                       inside: text.bottom <= box.bottom && text.right <= box.right };
            })"""
    )

    assert "take" in {box["kind"] for box in boxes}
    expect(page.locator(".subject .card")).to_be_hidden()  # the title stands beside it
    for box in boxes:
        assert not box["isCovered"], box
        assert box["inside"] or not box["kind"], box  # what was taken is small, and cut off
        assert box["lines"] < box["words"] + 0.5, box
