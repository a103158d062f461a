"""Semantic IDs that were brought along: several items share one, and codes are dead."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from looking import Look, get, names
from on_socket import on_socket
from playwright.sync_api import expect
from tiny_run import tiny_config

from bbqrec.bundle import RunFolder
from bbqrec.pipeline import run_stages
from bbqrec.serving import EventStore, ServeConfig, Service

AUDIT = (Path(__file__).parent / "audit.js").read_text()


@pytest.fixture(scope="module")
def shared_site(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tiny shop with 3 pairs of items under one ID each; of 12 first codes 2 are dead."""
    folder = tmp_path_factory.mktemp("own") / "run"
    shutil.copytree(run, folder)
    rows = {}
    for place, item_id in enumerate(RunFolder(folder).dataset().item_ids):
        own = max(place - 3, place % 3)  # items 0 to 2 are named as 3 to 5
        first = own % 10
        rows[item_id] = [f"<a_{first + 2 * (first > 6)}>", f"<b_{own // 10}>", "<c_1>"]
    ids = folder.parent / "own.index.json"
    ids.write_text(json.dumps(rows))
    config = tiny_config(training={"epochs": 1}).model_copy(update={"semantic_ids": str(ids)})
    run_stages(RunFolder(folder), config, source=None, until="train")
    store = EventStore(str(folder.parent / "events.sqlite3"))
    with on_socket(Service(folder, store, ServeConfig())) as address:
        yield address


def test_dead_codes_are_crossed_out_and_can_be_listed(shared_site: str, look: Look) -> None:
    page = look(f"{shared_site}/#/tree")
    crossed = page.locator(".map rect.dead")

    assert get(shared_site, "/v1/tree")["dead_codes"] == [7, 8]
    assert [title.text_content() for title in crossed.locator("title").all()] == [
        "code 7: dead",
        "code 8: dead",
    ]
    expect(page.locator(".map .cross")).to_have_count(2)
    expect(page.locator(".map rect.used")).to_have_count(10)
    summary = page.get_by_text("2 dead: no item has them")
    summary.click()
    expect(page.locator(".legend details")).to_contain_text("7, 8")
    assert page.evaluate(AUDIT) == []


def test_items_that_share_all_codes_are_marked_down_to_the_last_code(
    shared_site: str, look: Look
) -> None:
    root = get(shared_site, "/v1/tree")
    shared = {code["code"]: code["num_colliding"] for code in root["codes"]}
    page = look(f"{shared_site}/#/tree")

    assert root["num_colliding"] == 6
    assert sorted(shared.values()) == [0] * 7 + [2] * 3
    for card, code in zip(page.locator(".branch").all(), root["codes"], strict=True):
        marks = names(card.locator(".warning"))
        assert marks == (["2 share all their codes"] if code["num_colliding"] else [])
    code = next(code for code, number in shared.items() if number)
    page.locator(f"[data-key='code {code}']").click()
    expect(page.locator(".lede .warning")).to_have_text("2 share all their codes")
    for deeper in (f"{code}.0", f"{code}.0.1"):
        page.locator(".branch:has(.warning) h3 a").click()
        page.wait_for_url(f"**/#/tree/{deeper}")
        expect(page.locator(".crumbs li")).to_have_count(2 + deeper.count("."))
    expect(page.locator(".members li")).to_have_count(2)
    expect(page.locator(".lede")).to_contain_text("2 items begin with these codes")
    assert page.evaluate(AUDIT) == []


def test_the_run_shows_what_is_known_of_them(shared_site: str, look: Look) -> None:
    codes = get(shared_site, "/v1/run")["codes"]
    page = look(f"{shared_site}/#/run")
    facts = page.locator("table.facts tbody tr")

    assert codes["collision_rate"] == pytest.approx(6 / 58)
    expect(page.get_by_text("These semantic IDs were brought along")).to_be_visible()
    assert [names(row.locator("th, td"))[:2] for row in facts.all()] == [["Collisions", "10.3%"]]
    expect(page.locator(".levels figure").first).to_contain_text("10 of 12 codes used, 2 dead")
    assert page.evaluate(AUDIT) == []
