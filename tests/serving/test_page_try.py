"""The first view in a real browser: what is clicked is what the API is asked."""

import re
from pathlib import Path

import httpx
import pytest
from looking import Look, get, names, offers, recommended, settled, taken
from on_socket import on_socket
from playwright.sync_api import Page, Route, expect

from bbqrec.serving import EventStore, ServeConfig, Service


def item_ids(address: str, query: str = "") -> list[str]:
    return [item["item_id"] for item in get(address, "/v1/search", q=query)["items"]]


def search(page: Page, words: str) -> None:
    page.get_by_label("Search the catalog").fill(words)
    settled(page)


def test_what_is_taken_decides_what_comes_next(site: str, look: Look) -> None:
    page = look(site)
    found = get(site, "/v1/search", q="lamp")["items"]

    assert offers(page) == recommended(site, [])
    assert "what is popular" in page.locator(".next").inner_text()
    search(page, "lamp")
    assert names(page.locator(".hits .name")) == [item["title"] for item in found]
    page.get_by_role("button", name=f"Take {found[1]['title']}").first.click()
    assert offers(page) == recommended(site, [found[1]["item_id"]])
    assert "popular" not in page.locator(".next").inner_text()
    first = page.locator(".offer .take").first
    first_title = offers(page)[0]
    first.click()

    assert taken(page) == [found[1]["title"], first_title]
    assert first_title not in offers(page)
    page.get_by_role("button", name="Undo").click()
    assert offers(page) == recommended(site, [found[1]["item_id"]])
    page.get_by_role("button", name="Clear").click()
    assert offers(page) == recommended(site, [])


def test_probabilities_are_those_of_the_api(site: str, look: Look) -> None:
    page = look(site)
    page.locator(".examples button").first.click()
    history = [i["item_id"] for i in get(site, "/v1/catalog")["examples"][0]]
    body = {"histories": [history], "k": 12}
    answer = httpx.post(f"{site}/v1/recommend", json=body).json()["answers"][0]["items"]
    titles = offers(page)
    shown = names(page.locator(".offer .chance"))

    assert titles == [item["title"] for item in answer]
    for text, item in zip(shown, answer, strict=True):
        share = float(text.removesuffix("%")) / 100
        assert share == pytest.approx(2.718281828 ** item["log_probability"], rel=0.06)


def test_what_is_refused_does_not_come_until_it_is_allowed_again(site: str, look: Look) -> None:
    page = look(site)
    page.locator(".examples button").first.click()
    before = offers(page)

    page.get_by_role("button", name=f"Never recommend {before[0]}").click()
    after = offers(page)
    page.get_by_role("button", name=f"Allow {before[0]} again").click()

    assert before[0] not in after
    assert after[: len(before) - 1] == before[1:]
    assert offers(page) == before


def test_only_what_a_search_finds_may_come(site: str, look: Look) -> None:
    page = look(site)
    allowed = {item["title"] for item in get(site, "/v1/search", q="mug", k=100)["items"]}
    page.locator(".examples button").nth(1).click()
    assert not set(offers(page)) <= allowed
    search(page, "mug")
    page.get_by_role("button", name="Recommend only what “mug” finds").click()

    assert set(offers(page)) <= allowed
    assert offers(page)
    page.get_by_role("button", name="Allow everything").click()
    assert not set(offers(page)) <= allowed


def test_where_a_search_finds_too_many_to_allow_all_that_is_said(site: str, look: Look) -> None:
    page = look(site)
    found = get(site, "/v1/search", q="mug", k=1000)
    many = [found["items"][place % len(found["items"])] for place in range(1000)]

    def answer(route: Route) -> None:
        route.fulfill(json={**found, "items": many})

    page.route(re.compile("/v1/search.*k=1000"), answer)
    search(page, "mug")
    page.get_by_role("button", name="Recommend only what “mug” finds").click()
    settled(page)

    assert names(page.locator(".tags li > span")) == [
        "only “mug”, no more than the first 1,000 items"
    ]
    page.unroute(re.compile("/v1/search.*k=1000"))
    page.reload()
    page.wait_for_selector(".tags")
    assert names(page.locator(".tags li > span")) == [f"only “mug”, {len(found['items'])} items"]


def test_items_taken_may_come_again_where_that_is_asked_for(site: str, look: Look) -> None:
    page = look(site)
    page.locator(".examples button").first.click()
    history = [i["item_id"] for i in get(site, "/v1/catalog")["examples"][0]]

    page.get_by_label("what was taken, too").check()

    assert offers(page) == recommended(site, history, exclude_seen=False)


def test_more_can_be_shown(site: str, look: Look) -> None:
    page = look(site)
    page.get_by_role("button", name="Show more").click()

    assert offers(page) == recommended(site, [], k=24)


def test_the_address_keeps_what_was_chosen(site: str, look: Look) -> None:
    page = look(site)
    page.locator(".examples button").first.click()
    page.get_by_role("button", name=re.compile("Never recommend")).nth(2).click()
    before = offers(page)

    page.reload()
    page.wait_for_selector(".strip")

    assert offers(page) == before
    assert len(taken(page)) == len(get(site, "/v1/catalog")["examples"][0])
    page.goto(f"{site}/#/try?taken=nothing+known&only=words:mug")
    page.reload()
    page.wait_for_selector(".strip")
    mugs = [item["item_id"] for item in get(site, "/v1/search", q="mug", k=1000)["items"]]
    assert offers(page) == recommended(site, ["nothing known"], allow=mugs)
    assert "Passed over: nothing known." in page.locator(".next").inner_text()


def test_a_history_is_opened_by_user_id(site: str, look: Look) -> None:
    history = item_ids(site)[3:6]
    events = [{"user_id": "ü/7 & co", "item_id": item_id} for item_id in history]
    httpx.post(f"{site}/v1/events", json={"events": events}).raise_for_status()
    page = look(site)

    page.get_by_label("or a user id").fill("nobody")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_text("nothing is known of this user")).to_be_visible()
    page.get_by_label("or a user id").fill("ü/7 & co")
    page.keyboard.press("Enter")

    page.wait_for_selector(".strip")
    assert len(taken(page)) == 3
    assert offers(page) == recommended(site, history)


def test_everything_can_be_done_by_keyboard(site: str, look: Look) -> None:
    page = look(site)
    title = get(site, "/v1/search", q="vase")["items"][0]["title"]

    def tab_to(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no tab stop is {selector}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "view"
    tab_to("input[type=search]")
    page.keyboard.type("vase")
    page.keyboard.press("Enter")  # takes the first that is found
    assert taken(page) == [title]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert [f"Take {name}" for name in taken(page)[1:]] == [second]
    tab_to(".offer .take")
    first = offers(page)[0]
    page.keyboard.press("Space")
    assert taken(page)[-1] == first
    assert page.evaluate("document.activeElement.dataset.key") == "take 0"  # focus is not lost
    tab_to(".offer .acts button")
    page.keyboard.press("Enter")
    assert page.locator(".tags li").count() == 1
    for _ in range(3):
        page.locator(".strip .remove").last.focus()
        page.keyboard.press("Enter")
        settled(page)
    assert taken(page) == []


def test_a_server_with_a_token_is_asked_with_it(evaluated: Path, events: Path, look: Look) -> None:
    config = ServeConfig(token="a long random word")
    with on_socket(Service(evaluated, EventStore(str(events)), config)) as address:
        assert httpx.get(f"{address}/v1/catalog").status_code == 401
        page = look(address, waits_for="dialog")

        page.get_by_label("Token", exact=True).last.fill("another")
        page.keyboard.press("Enter")
        expect(page.get_by_text("That was not the right one.")).to_be_visible()
        page.get_by_label("Token", exact=True).last.fill("a long random word")
        page.get_by_role("button", name="Open").click()

        page.wait_for_function(
            "() => [...document.querySelectorAll('.hits img')].some(i => i.naturalWidth > 0)"
        )
        assert len(offers(page)) == 12
        source = page.locator(".hits img").first.get_attribute("src")
        assert source is not None
        assert source.startswith("blob:")


def test_what_cannot_be_answered_is_said(evaluated: Path, events: Path, look: Look) -> None:
    with on_socket(Service(evaluated, EventStore(str(events)), ServeConfig())) as address:
        page = look(address)
        page.locator(".examples button").first.click()
        settled(page)
    page.locator(".offer .take").first.click()

    expect(page.get_by_role("alert").first).to_contain_text("The server cannot be reached")
