"""The tree of IDs and the run in a real browser: they show what the API says."""

import re
import shutil
from pathlib import Path

import httpx
import pytest
from looking import Look, get, names, offers, settled
from on_socket import on_socket
from playwright.sync_api import expect

from bbqrec.bundle import RunFolder
from bbqrec.serving import EventStore, ServeConfig, Service


def test_the_tree_shows_the_largest_codes_with_their_items(site: str, look: Look) -> None:
    root = get(site, "/v1/tree")
    page = look(f"{site}/#/tree")
    cards = page.locator(".branch")

    assert cards.count() == len(root["codes"]) == root["num_codes"]
    for card, code in zip(cards.all(), root["codes"], strict=True):
        text = " ".join(card.inner_text().split())
        assert str(code["code"]) in text
        assert code["label"] in text
        assert f"{code['size']} item" in text
        assert f"taken {code['times_taken']} times" in text
        assert card.locator(".wall li").count() == len(code["items"])
    dead = root["dead_codes"]
    assert f"{len(dead)} dead" in page.locator(".legend").inner_text()
    assert page.locator(".map rect.dead").count() == len(dead)
    assert page.locator(".map rect").count() == root["codebook_size"]
    label = page.locator(".map").get_attribute("aria-label")
    assert label == f"{root['num_codes']} of 8 codes are used here, {len(dead)} are dead"


def test_a_code_that_only_withdrawn_items_have_is_said_to_be_theirs(
    run: Path, events: Path, look: Look
) -> None:
    ids = RunFolder(run).semantic_ids().codes[:, 0]
    first = int(ids[0])
    gone = [RunFolder(run).dataset().item_ids[i] for i in (ids == first).nonzero().flatten()]
    with on_socket(Service(run, EventStore(str(events)), ServeConfig())) as address:
        for item_id in gone:
            assert httpx.delete(f"{address}/v1/items/{item_id}").status_code in (200, 204)
        page = look(f"{address}/#/tree")

        settled(page).wait_for_selector(".map")
        assert "1 of withdrawn items only" in page.locator(".legend").inner_text()
        square = page.locator(".map rect.free")
        assert square.locator("title").text_content() == f"code {first}: of withdrawn items only"


def test_numbers_are_written_one_way(site: str, look: Look) -> None:
    page = look(site)

    shown = page.evaluate(
        "async () => { const { percent } = await import('/page/dom.js');"
        " return [0.2791, 0.0123, 0.000041, 0].map(percent); }"
    )

    assert shown == ["28%", "1.2%", "0.0041%", "0%"]


def test_a_walk_down_the_tree_ends_at_an_item(site: str, look: Look) -> None:
    page = look(f"{site}/#/tree")
    prefix: list[str] = []
    for depth in range(1, 4):
        node = get(site, "/v1/tree", **({"prefix": ".".join(prefix)} if prefix else {}))
        prefix.append(str(node["codes"][0]["code"]))
        page.locator(".branch h3 a").first.click()
        page.wait_for_url(f"**/#/tree/{'.'.join(prefix)}")
        expect(page.locator(".crumbs li")).to_have_count(depth + 1)
        page.wait_for_selector(".members")

    members = get(site, "/v1/tree/items", prefix=".".join(prefix))["items"]
    assert names(page.locator(".members .name")) == [item["title"] for item in members]
    assert all(item["semantic_id"] == [int(code) for code in prefix] for item in members)
    assert page.locator(".branch").count() == 0
    page.locator(".crumbs a").nth(1).click()
    page.wait_for_url(f"**/#/tree/{prefix[0]}")
    page.go_back()
    page.wait_for_url(f"**/#/tree/{'.'.join(prefix)}")


def test_an_item_is_found_in_the_tree(site: str, look: Look) -> None:
    item = get(site, "/v1/search", q="clock")["items"][2]
    codes = get(site, f"/v1/items/{item['item_id']}")["semantic_id"]
    page = look(f"{site}/#/tree")

    page.get_by_label("Where is …").fill("clock")
    page.get_by_role("button", name=f"Show where this is: {item['title']}").first.click()

    page.wait_for_url(f"**/#/tree/{'.'.join(map(str, codes))}")
    expect(page.locator(".members")).to_contain_text(item["title"])


def test_the_order_of_codes_can_be_chosen(site: str, look: Look) -> None:
    by_number = [code["code"] for code in get(site, "/v1/tree", order="code")["codes"]]
    by_taken = [code["code"] for code in get(site, "/v1/tree", order="taken")["codes"]]
    page = look(f"{site}/#/tree")
    chips = page.locator(".branch .code")

    page.get_by_label("in the order of").select_option("number")
    expect(chips).to_have_text([str(code) for code in sorted(by_number)])
    assert by_number == sorted(by_number)
    page.get_by_label("in the order of").select_option("most taken")
    expect(chips).to_have_text([str(code) for code in by_taken])


def test_a_branch_can_be_all_that_may_come(site: str, look: Look) -> None:
    code = get(site, "/v1/tree")["codes"][0]
    inside = get(site, "/v1/tree/items", prefix=code["code"], k=1000)["items"]
    page = look(f"{site}/#/tree/{code['code']}")

    page.get_by_role("link", name="Recommend only from here").click()
    page.wait_for_selector(".offer")

    assert set(offers(page)) <= {item["title"] for item in inside}
    assert len(offers(page)) == min(12, len(inside))
    assert f"{len(inside)} items" in page.locator(".tags").inner_text()


def test_where_no_item_is_that_is_said(site: str, look: Look) -> None:
    page = look(f"{site}/#/tree/99999")

    expect(page.get_by_role("alert")).to_contain_text("no item's semantic ID begins with")


def test_the_run_shows_the_numbers_of_the_evaluation(site: str, look: Look) -> None:
    run = get(site, "/v1/run")
    found = run["measured"]
    page = look(f"{site}/#/run")

    for panel, line in zip(page.locator(".headline").all(), found["headlines"], strict=True):
        text = panel.inner_text()
        assert f"{line['score']['mean']:.3f}" in text
        assert f"{line['reference']['mean']:.3f}" in text
        assert line["metric"] in text
    for table, rows in zip(page.locator("table.scores").all(), found["tables"], strict=True):
        for shown, row in zip(table.locator("tbody tr").all(), rows["rows"], strict=True):
            cells = names(shown.locator("td, th"))
            assert cells[0] == row["name"]
            for text, cell in zip(cells[1:], row["cells"], strict=False):
                assert text.startswith(f"{cell['interval']['mean']:.4f}")
    num_panels = len(found["panels"]) + sum(len(group) for group in found["slices"].values())
    assert page.locator(".panel .dots").count() == num_panels
    for group in found["slices"].values():
        for panel in group:
            expect(page.locator(".panel", has_text=panel["title"]).last).to_be_attached()
    assert page.locator(".charts figure").count() == len(run["learned"]["charts"])
    assert (
        page.locator(".charts path.curve").first.get_attribute("d")
        == (run["learned"]["charts"][0]["path"])
    )
    assert page.locator(".levels figure").count() == len(run["codes"]["levels"]) == 3
    num_heats = len(run["learned"]["heat_tables"]) + len(run["learned"]["neighbors"])
    assert page.locator("table.heat, #similarity ~ .note").count() >= num_heats
    first = run["learned"]["heat_tables"][0]["rows"][0][1][0]["value"]
    shown_value = page.locator("table.heat td").first.inner_text().replace("−", "-")
    assert float(shown_value) == pytest.approx(first, abs=0.0006)


def test_of_a_table_that_learned_nothing_that_is_said(site: str, look: Look) -> None:
    run = get(site, "/v1/run")
    for table in (run["learned"]["heat_tables"][0], run["learned"]["neighbors"][0]):
        table["largest"] = 0.0
    zeros = [run["learned"]["heat_tables"][0]["name"], run["learned"]["neighbors"][0]["name"]]
    page = look(site)
    page.route("**/v1/run", lambda route: route.fulfill(json=run))
    page.goto(f"{site}/#/run")
    page.wait_for_selector(".charts")

    captions = names(page.locator("table.heat caption"))
    notes = names(page.locator("#similarity ~ .note"))
    for words in (f"Likeness by {zeros[0]}", f"Neighbors by {zeros[1]}"):
        assert words not in captions
        assert any(note.startswith(f"{words}: every number is 0.00") for note in notes)


def test_a_curve_can_be_read_with_the_pointer(site: str, look: Look) -> None:
    chart = get(site, "/v1/run")["learned"]["charts"][0]
    page = look(f"{site}/#/run")
    figure = page.locator(".charts figure").first
    figure.scroll_into_view_if_needed()
    box = figure.locator("svg").bounding_box()
    assert box is not None

    page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + box["height"] / 2)

    epoch, value = chart["points"][-1]
    found = re.search(r"epoch (\d+): ([\d.e-]+)", figure.inner_text())
    assert found
    assert int(found[1]) == epoch
    assert float(found[2]) == pytest.approx(value, rel=1e-3)


def test_a_run_that_was_not_evaluated_says_so(run: Path, events: Path, look: Look) -> None:
    with on_socket(Service(run, EventStore(str(events)), ServeConfig())) as address:
        page = look(f"{address}/#/run")

        expect(page.get_by_text("This run was not evaluated yet")).to_be_visible()
        assert page.locator(".charts figure").count() > 0
        assert page.locator(".headline").count() == 0


def test_the_views_are_three_links_and_say_which_is_open(site: str, look: Look) -> None:
    page = look(site)
    for name, words in (("The ID tree", "names things"), ("The run", "What was learned from")):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(words)
        assert page.locator("nav [aria-current=page]").inner_text() == name
        assert page.title().startswith(name)
        assert page.evaluate("document.activeElement.id") == "view"
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_contain_text("names things")
    settled(page)


def test_the_footer_names_the_version_that_answers(
    run: Path, other_version: Path, tmp_path: Path, look: Look
) -> None:
    served = shutil.copytree(run, tmp_path / "run")
    config = ServeConfig(admin_token="sesame")
    with on_socket(Service(served, EventStore(str(tmp_path / "events")), config)) as address:
        page = look(address)
        about = page.locator("#about")
        before = get(address, "/v1/catalog")["model_version"]
        expect(about).to_contain_text(f"Version {before} of")
        shutil.rmtree(served)
        shutil.copytree(other_version, served)
        admin = {"Authorization": "Bearer sesame"}
        httpx.post(f"{address}/v1/admin/reload", headers=admin, timeout=60).raise_for_status()
        after = get(address, "/v1/catalog")["model_version"]
        assert after != before

        page.locator(".examples button").first.click()

        expect(about).to_contain_text(f"Version {after} of")
        settled(page)


def test_what_is_withdrawn_or_posted_changes_the_page(
    evaluated: Path, events: Path, look: Look
) -> None:
    with on_socket(Service(evaluated, EventStore(str(events)), ServeConfig())) as address:
        gone = get(address, "/v1/search")["items"][0]
        before = get(address, "/v1/tree")["size"]
        httpx.delete(f"{address}/v1/items/{gone['item_id']}").raise_for_status()
        new = {"item_id": "NEW-1", "title": "Quixotic dotted table lamp"}
        httpx.post(f"{address}/v1/items", json=new).raise_for_status()
        page = look(address)

        assert gone["title"] not in names(page.locator(".hits .name")) or sum(
            item["title"] == gone["title"] for item in get(address, "/v1/search")["items"]
        )
        page.get_by_label("Search the catalog").fill("quixo")
        page.get_by_role("button", name="Take Quixotic dotted table lamp").first.click()
        settled(page)
        assert page.locator(".strip li").count() == 1
        ids = [i["item_id"] for i in get(address, "/v1/search", q=gone["item_id"])["items"]]
        assert gone["item_id"] not in ids
        assert get(address, "/v1/tree")["size"] == before
