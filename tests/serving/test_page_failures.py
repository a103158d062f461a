"""What fails is said in words where it was asked for, and nothing older stands in for it."""

import re
from contextlib import suppress

from looking import Look, get, names, offers, recommended, settled, taken
from playwright.sync_api import Error, Page, Route, expect

GONE = "The server cannot be reached"


def show_few(page: Page, many: str, few: str) -> None:
    """Let pages of the tree be so short that there are more of them."""

    def ask(route: Route) -> None:
        route.continue_(url=route.request.url.replace(many, few))

    page.route(re.compile(r"/v1/tree.*[?&]" + many), ask)
    page.reload()
    page.wait_for_selector("main h1")


def test_a_search_that_was_cleared_opens_nothing(site: str, look: Look) -> None:
    page = look(f"{site}/#/tree")
    box = page.get_by_label("Where is …")
    box.fill("clock")
    expect(page.locator(".hits li")).to_have_count(6)

    box.fill("")
    page.keyboard.press("Enter")
    settled(page)

    assert page.url.endswith("#/tree")
    expect(page.locator(".hits li")).to_have_count(0)


def test_what_a_cleared_search_asked_for_does_not_come_in_late(site: str, look: Look) -> None:
    page = look(f"{site}/#/tree")
    box = page.get_by_label("Where is …")
    held: list[Route] = []
    page.route("**/v1/search**", lambda route: held.append(route))
    with page.expect_request("**/v1/search**"):
        box.fill("clock")

    box.fill("")
    settled(page)
    with suppress(Error):  # it was taken back
        held[0].continue_()
    settled(page)
    page.keyboard.press("Enter")
    settled(page)

    assert page.url.endswith("#/tree")
    expect(page.locator(".hits li")).to_have_count(0)


def test_enter_takes_nothing_that_an_earlier_search_found(site: str, look: Look) -> None:
    page = look(site)
    box = page.get_by_label("Search the catalog")
    box.fill("lamp")
    settled(page)
    page.context.set_offline(True)

    box.fill("vase")
    page.keyboard.press("Enter")

    expect(page.locator(".hits").get_by_role("alert")).to_contain_text(GONE)
    assert taken(page) == []


def test_the_tree_says_that_more_codes_cannot_be_had(site: str, look: Look) -> None:
    root = get(site, "/v1/tree")
    page = look(f"{site}/#/tree")
    show_few(page, "k=24", "k=3")
    alert = page.locator("main").get_by_role("alert")
    order = page.get_by_label("in the order of")
    page.context.set_offline(True)

    page.get_by_role("button", name="Show more of").click()
    expect(alert).to_contain_text(GONE)
    expect(alert).to_be_in_viewport()
    order.select_option("number")
    expect(alert).to_have_count(2)
    expect(alert.first).to_be_in_viewport()
    expect(order).to_have_value("size")  # as what is shown is ordered
    page.context.set_offline(False)
    page.get_by_role("button", name="Show more of").click()

    expect(page.locator(".branch")).to_have_count(6)
    expect(alert).to_have_count(1)
    order.select_option("number")
    expect(alert).to_have_count(0)
    first = sorted(code["code"] for code in root["codes"])[:3]
    expect(page.locator(".branch .code")).to_have_text([str(code) for code in first])


def test_the_tree_says_that_an_item_cannot_be_found(site: str, look: Look) -> None:
    page = look(f"{site}/#/tree")
    box = page.get_by_label("Where is …")
    box.fill("clock")
    expect(page.locator(".hits li")).to_have_count(6)
    page.context.set_offline(True)

    page.locator(".hits li button").first.click()

    expect(page.locator(".finder").get_by_role("alert")).to_contain_text(GONE)
    page.context.set_offline(False)
    page.locator(".hits li button").first.click()
    page.wait_for_url("**/#/tree/*")


def test_the_tree_says_that_items_cannot_be_had(site: str, look: Look) -> None:
    code = get(site, "/v1/tree")["codes"][0]
    page = look(f"{site}/#/tree/{code['code']}")
    show_few(page, "k=48", "k=2")
    expect(page.locator(".members li")).to_have_count(2)
    alert = page.locator("main").get_by_role("alert")
    page.context.set_offline(True)

    page.get_by_role("button", name="Show more", exact=True).click()
    expect(alert).to_contain_text(GONE)
    page.context.set_offline(False)
    page.get_by_role("button", name="Show more", exact=True).click()

    expect(page.locator(".members li")).to_have_count(4)
    expect(alert).to_have_count(0)
    page.route("**/v1/tree/items**", lambda route: route.abort())
    page.reload()
    expect(alert).to_contain_text(GONE)
    page.unroute("**/v1/tree/items**")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".members li")).to_have_count(2)
    expect(alert).to_have_count(0)


def test_what_may_come_stays_where_asking_for_it_fails(site: str, look: Look) -> None:
    page = look(site)
    page.get_by_label("Search the catalog").fill("mug")
    settled(page)
    page.context.set_offline(True)

    page.get_by_role("button", name="Recommend only what “mug” finds").click()

    expect(page.locator(".finder").get_by_role("alert")).to_contain_text(GONE)
    assert page.locator(".tags li").count() == 0


def test_a_title_that_cannot_be_asked_for_is_not_its_id(site: str, look: Look) -> None:
    item = get(site, "/v1/search")["items"][0]
    page = look(site)
    settled(page)
    page.route("**/v1/items/**", lambda route: route.abort())

    page.goto(f"{site}/#/try?taken={item['item_id']}")

    expect(page.get_by_role("alert")).to_contain_text(GONE)
    page.unroute("**/v1/items/**")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".strip")
    assert taken(page) == [item["title"]]


def test_an_answer_that_failed_can_be_asked_for_again(site: str, look: Look) -> None:
    history = [item["item_id"] for item in get(site, "/v1/catalog")["examples"][0]]
    page = look(site)
    settled(page)
    page.context.set_offline(True)

    page.locator(".examples button").first.click()
    expect(page.locator(".next").get_by_role("alert")).to_contain_text(GONE)
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()

    assert offers(page) == recommended(site, history)


def test_an_explanation_that_cannot_be_had_is_said(site: str, look: Look) -> None:
    page = look(site)
    page.locator(".examples button").first.click()
    settled(page)
    page.context.set_offline(True)

    page.get_by_role("button", name="Why ").first.click()

    expect(page.locator("dialog").get_by_role("alert")).to_contain_text(GONE)
    assert names(page.locator("dialog h2"))
