"""Short words for what tests of the page do over and over."""

from collections.abc import Callable, Sequence
from typing import Any

import httpx
from playwright.sync_api import ConsoleMessage, Locator, Page

Look = Callable[..., Page]  # with an address and settings of the browser; see conftest.look


def leave(url: str, address: str, complaints: list[str]) -> None:
    """A complaint when a request goes elsewhere."""
    if not url.startswith((address + "/", "blob:", "data:")):
        complaints.append(f"asked for {url}")


def note(message: ConsoleMessage, complaints: list[str]) -> None:
    """A complaint when the browser has one; that a request was refused is the server's right."""
    is_refusal = "Failed to load resource" in message.text
    if message.type in ("error", "warning") and not is_refusal:
        complaints.append(message.text)


def check_none(complaints: list[str]) -> None:
    assert not complaints


def get(address: str, path: str, **parameters: Any) -> Any:
    """What the API says."""
    response = httpx.get(f"{address}{path}", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def recommended(address: str, taken: Sequence[str], **asked: Any) -> list[str]:
    """Titles in the order of the API."""
    body = {"histories": [list(taken)], "k": 12, **asked}
    response = httpx.post(f"{address}/v1/recommend", json=body)
    assert response.status_code == 200, response.text
    return [item["title"] for item in response.json()["answers"][0]["items"]]


def names(found: Locator) -> list[str]:
    return [" ".join(text.split()) for text in found.all_inner_texts()]


def settled(page: Page) -> Page:
    """The page, once nothing is being asked or typed any more."""
    page.wait_for_timeout(180)  # longer than the search box waits for another letter
    page.wait_for_function("() => !document.querySelector('[aria-busy]')")
    return page


def offers(page: Page) -> list[str]:
    """Titles of what is recommended, once it is there."""
    return names(settled(page).locator(".offer .name"))


def taken(page: Page) -> list[str]:
    return [
        label.removeprefix("Put back ")
        for button in settled(page).locator(".strip .remove").all()
        if (label := button.get_attribute("aria-label"))
    ]
