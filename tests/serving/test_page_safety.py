"""The page for everybody, everywhere: hostile titles, other themes, small screens, no network."""

import io
import re
from pathlib import Path

import httpx
import pytest
from looking import Look, get, settled
from on_socket import on_socket
from PIL import Image
from playwright.sync_api import Page, expect

from bbqrec.serving import EventStore, ServeConfig, Service

VIEWS = ("#/try", "#/tree", "#/tree/{code}", "#/run")
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

AUDIT = (Path(__file__).parent / "audit.js").read_text()


def view(address: str, page: Page, name: str) -> None:
    code = get(address, "/v1/tree")["codes"][0]["code"]
    page.goto(f"{address}/{name.format(code=code)}")
    page.wait_for_selector(".offer, .branch, .charts")
    settled(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_can_be_read_by_everybody(scheme: str, site: str, look: Look) -> None:
    page = look(site, color_scheme=scheme, reduced_motion="reduce")
    for name in VIEWS:
        view(site, page, name)
        assert page.evaluate(AUDIT) == [], name
        roles = page.locator("body").aria_snapshot()
        unnamed = r"^\s*- (button|link|textbox|searchbox|checkbox|combobox|img|table|region)\s*:?$"
        assert not re.findall(unnamed, roles, re.MULTILINE), name
        assert {"banner", "main", "contentinfo", "navigation"} <= set(re.findall(r"\w+", roles))
    view(site, page, "#/try")
    page.locator(".examples button").first.click()
    page.locator(".offer .acts button").first.click()
    settled(page)
    assert page.evaluate(AUDIT) == []


def test_the_audit_sees_what_is_wrong(site: str, look: Look) -> None:
    page = look(site)
    settled(page)
    page.evaluate(
        """() => {
          const main = document.querySelector("main");
          main.append(document.createElement("img"), document.createElement("h4"));
          const faint = document.createElement("p");
          faint.textContent = "faint";
          faint.style.color = "#ccc";
          main.append(faint, document.createElement("button"));
          main.lastChild.style.padding = 0;
          main.querySelector("h4").textContent = "deep";
        }"""
    )

    told = " ".join(page.evaluate(AUDIT))
    for words in ("no alt", "heading levels", "contrast", "too small to hit"):
        assert words in told


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_view_is_wider_than_the_screen(width: int, site: str, look: Look) -> None:
    page = look(site, viewport={"width": width, "height": 800}, has_touch=True)
    for name in VIEWS:
        view(site, page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    view(site, page, "#/try")
    page.locator(".examples button").first.tap()
    page.wait_for_selector(".strip")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_is_chosen_by_the_machine_or_by_hand(site: str, look: Look) -> None:
    def brightness(page: Page) -> int:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    page = look(site, color_scheme="dark")
    assert brightness(page) < 150
    page.get_by_role("button", name="Theme: as the system").click()
    assert brightness(page) > 600
    page.get_by_role("button", name="Theme: light").click()
    page.emulate_media(color_scheme="light")
    assert brightness(page) < 150
    page.reload()
    page.wait_for_selector("main h1")

    assert brightness(page) < 150  # it is remembered
    page.get_by_role("button", name="Theme: dark").click()
    assert brightness(page) > 600  # the machine's again, which is light by now


def test_the_page_works_without_any_other_machine(site: str, look: Look) -> None:
    page = look(site)  # which fails the test when anything is asked of another address
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in VIEWS:
        view(site, page, name)
    page.reload()
    page.wait_for_function("() => [...document.images].some(image => image.naturalWidth > 64)")

    assert len(asked) > 20
    assert all(url.startswith(site) for url in asked)


def test_nothing_inline_may_run(site: str) -> None:
    for path in ("/", "/page/app.js", "/v1/catalog", "/nothing"):
        policy = httpx.get(f"{site}{path}").headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
    assert "'unsafe-inline'" in httpx.get(f"{site}/docs").headers["content-security-policy"]
    html = httpx.get(site).text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:", html)


def test_what_strangers_wrote_is_shown_and_does_nothing(
    evaluated: Path, events: Path, look: Look
) -> None:
    item_id = '"><svg/onload=window.hacked=1>'
    with on_socket(Service(evaluated, EventStore(str(events)), ServeConfig())) as address:
        posted = {"item_id": item_id, "title": f"lamp {HOSTILE}", "text": "table lamp"}
        codes = httpx.post(f"{address}/v1/items", json=posted).json()["semantic_id"]
        page = look(address)

        page.get_by_label("Search the catalog").fill("lamp onerror")
        page.get_by_role("button", name=re.compile("Take lamp <img")).click()
        settled(page)
        assert HOSTILE in page.locator(".strip .card").first.inner_text()
        page.get_by_label("Search the catalog").fill(HOSTILE)
        settled(page)
        page.goto(f"{address}/#/tree/{'.'.join(map(str, codes))}")
        expect(page.locator(".members")).to_contain_text(HOSTILE)
        page.goto(f"{address}/#/tree/{HOSTILE}")
        page.goto(f"{address}/#/try?taken={HOSTILE}&only=words:{HOSTILE}")
        page.wait_for_selector(".offers, .note")

        assert page.evaluate("window.hacked") is None
        assert page.locator("main svg[onload], main script").count() == 0


def test_pictures_are_small_and_of_the_item(site: str, evaluated: Path, events: Path) -> None:
    item = get(site, "/v1/search")["items"][0]
    answer = httpx.get(f"{site}/v1/pictures/{item['item_id']}")
    picture = Image.open(io.BytesIO(answer.content))

    assert answer.headers["content-type"] == "image/jpeg"
    assert picture.format == "JPEG"
    assert max(picture.size) <= 256
    assert "max-age" in answer.headers["cache-control"]
    again = {"if-none-match": answer.headers["etag"]}
    assert httpx.get(f"{site}/v1/pictures/{item['item_id']}", headers=again).status_code == 304
    assert httpx.get(f"{site}/v1/pictures/nothing").status_code == 404


def test_half_an_answer_is_none(site: str, look: Look) -> None:
    """Taken back while its body arrives, or cut off: not mistaken for an empty answer."""
    page = look(site)
    settled(page)

    ended = page.evaluate(
        """async () => {
          const address = document.querySelector("script[type=module]").src;
          const { get } = await import(new URL("api.js", address));
          const fetched = window.fetch;
          window.fetch = async () => new Response('{"items": [');
          const ending = (signal) => get("v1/search", {}, signal).then(() => "an answer", (e) => e);
          const taken = await ending(AbortSignal.abort());
          const cut = await ending(new AbortController().signal);
          window.fetch = fetched;
          return [taken.name, cut.message];
        }"""
    )

    assert ended == ["AbortError", "The server's answer broke off; ask again."]
