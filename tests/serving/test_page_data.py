"""What the page asks for, against slow and obvious answers."""

import base64
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import NUM_ITEMS, Open, problem
from starlette.testclient import TestClient

from bbqrec.bundle import RunFolder
from bbqrec.report import measured
from bbqrec.semantic_ids import SemanticIds
from bbqrec.serving.code_tree import CodeTree
from bbqrec.serving.title_search import MAX_WORDS, TitleSearch, plain
from bbqrec.storage import read_json


def slowly_found(titles: Sequence[str], query: str, popularity: Sequence[int]) -> list[int]:
    """Items all of whose asked words begin a word of theirs; whole words first, then popular."""
    words = plain(query).split()
    found = []
    for item, title in enumerate(titles):
        own = plain(f"{title} id{item}").split()
        if all(any(o.startswith(word) for o in own) for word in words):
            is_whole = all(word in own for word in words)
            found.append((not is_whole, -popularity[item], item))
    return [item for _, _, item in sorted(found)]


def test_a_search_finds_what_a_look_at_every_title_finds() -> None:
    generator = np.random.default_rng(0)
    vocabulary = ["lamp", "lampe", "la", "Élan", "elan", "blue", "bl", "ΣΟΦΌΣ", "σοφοσ", "Straße"]
    titles = [" ".join(generator.choice(vocabulary, 3)) for _ in range(300)]
    popularity = generator.integers(0, 50, 300)
    search = TitleSearch(titles, [f"id{i}" for i in range(300)], popularity)

    queries = ("la", "lamp", "LAMP blue", "elan", "b l", "strasse", "σοφ", "lamp lamp", "nothing")
    for query in queries:
        assert search.find(query, 300) == slowly_found(titles, query, popularity.tolist())
        assert search.find(query, 5) == slowly_found(titles, query, popularity.tolist())[:5]
    assert search.find("", 300) == np.argsort(-popularity, kind="stable").tolist()
    assert search.find("id7", 3)[0] == 7


def test_words_of_languages_without_spaces_are_found_inside() -> None:
    search = TitleSearch(["青い陶器の花瓶", "木の椅子", ""], ["a", "b", "c"], np.array([1, 2, 3]))

    assert search.find("花瓶", 9) == [0]
    assert search.find("の", 9) == [1, 0]
    assert search.find("陶器 花", 9) == [0]
    assert search.find("猫", 9) == []
    assert TitleSearch([], [], np.array([], dtype=np.int64)).find("x", 3) == []


def test_a_search_among_a_hundred_thousand_items_is_quick() -> None:
    generator = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(generator.choice(letters, 6)) for _ in range(20_000)]
    rows = generator.choice(words, (100_000, 12)).tolist()
    ids = [f"B{i:09}" for i in range(100_000)]
    search = TitleSearch([" ".join(row) for row in rows], ids, generator.integers(0, 99, 100_000))
    queries = ["a", "e b", words[7], f"{words[7][:3]} {words[9][:2]}", "b00001", "zz qq", "", "#"]
    queries += ["qzx", words[3][2:4] + "q", "0001", " ".join(words[: 3 * MAX_WORDS]), "00 01 02"]

    def seconds(query: str) -> float:
        start = time.thread_time()  # not of whatever else this machine does
        search.find(query, 12)
        return time.thread_time() - start

    assert max(min(seconds(query) for _ in range(3)) for query in queries) < 0.03


@pytest.mark.parametrize(("num_items", "codebook_size"), [(60, 3), (200, 4), (1, 2)])
def test_a_tree_counts_what_counting_every_item_counts(num_items: int, codebook_size: int) -> None:
    generator = torch.Generator().manual_seed(num_items)
    codes = torch.randint(codebook_size - 1, (num_items, 3), generator=generator)
    popularity = torch.randint(9, (num_items,), generator=generator).numpy()
    hidden = [0] if num_items > 1 else []
    tree = CodeTree(SemanticIds(codes, (codebook_size,) * 3), popularity, hidden)
    rows = [tuple(row) for row in codes.tolist()]
    shown = [item for item in range(num_items) if item not in hidden]

    def check(prefix: tuple[int, ...]) -> None:
        branch = tree.branch(prefix)
        members = [item for item in shown if rows[item][: len(prefix)] == prefix]
        assert sorted(branch.items.tolist()) == members
        assert [rows[item] for item in branch.items.tolist()] == sorted(rows[i] for i in members)
        assert branch.times_taken == popularity[members].sum()
        twins = [i for i in members if any(rows[i] == rows[j] for j in shown if j != i)]
        assert branch.num_colliding == len(twins)
        following = tree.next_codes(prefix)
        if len(prefix) == 3:
            assert following == []
            return
        expected = sorted({rows[item][len(prefix)] for item in members})
        assert [inner.prefix[-1] for inner in following] == expected
        assert sum(len(inner.items) for inner in following) == len(members)
        for inner in following:
            check(inner.prefix)

    check(())
    assert len(tree.branch((codebook_size - 1,)).items) == 0
    assert len(tree.branch((0, 0, 0, 0)).items) == 0
    for level in range(3):
        used = {row[level] for row in rows}
        assert tree.dead_codes(level) == [c for c in range(codebook_size) if c not in used]


def test_a_branch_is_described_level_by_level(client: TestClient) -> None:
    root = client.get("/v1/tree", params={"k": 64}).json()
    assert root["size"] == NUM_ITEMS == sum(root["sizes"].values())
    assert sum(code["size"] for code in root["codes"]) == NUM_ITEMS
    assert [code["size"] for code in root["codes"]] == sorted(root["sizes"].values(), reverse=True)
    assert root["num_codes"] + len(root["dead_codes"]) == root["codebook_size"] == 8

    code = root["codes"][0]["code"]
    branch = client.get("/v1/tree", params={"prefix": code}).json()
    items = client.get("/v1/tree/items", params={"prefix": code, "k": 1000}).json()["items"]
    assert branch["path"][0]["label"] == root["codes"][0]["label"]
    assert branch["size"] == len(items) == root["codes"][0]["size"]
    assert branch["times_taken"] == sum(item["times_taken"] for item in items)
    for item in items:
        assert item["semantic_id"][0] == code
        assert (
            client.get(f"/v1/items/{item['item_id']}").json()["semantic_id"]
            == (item["semantic_id"])
        )
    pages = [
        client.get("/v1/tree", params={"k": 2, "start": start, "order": "taken"}).json()["codes"]
        for start in range(0, root["num_codes"], 2)
    ]
    counts = [code["times_taken"] for page in pages for code in page]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == root["num_codes"]


@pytest.mark.parametrize("prefix", ["x", "1.", "1..2", "-1", "1.2.3.4.5.6.7", "9999999", "8", " 1"])
def test_prefixes_of_nothing_are_refused(prefix: str, client: TestClient) -> None:
    for path in ("/v1/tree", "/v1/tree/items"):
        answer = client.get(path, params={"prefix": prefix})
        problem(answer, answer.status_code)
        assert answer.status_code in (404, 422)
        assert prefix not in answer.json()["detail"] or len(prefix) < 3


def test_withdrawn_items_are_nowhere_and_posted_ones_are_everywhere(client: TestClient) -> None:
    gone = client.get("/v1/search").json()["items"][0]["item_id"]
    prefix = ".".join(map(str, client.get(f"/v1/items/{gone}").json()["semantic_id"]))
    new = {"item_id": "NEW-1", "title": "Unheard dotted lamp"}
    assert client.delete(f"/v1/items/{gone}").status_code == 204
    posted = client.post("/v1/items", json=new).json()

    assert client.get("/v1/tree").json()["size"] == NUM_ITEMS
    assert client.get("/v1/catalog").json()["num_items"] == NUM_ITEMS
    inside = client.get("/v1/tree/items", params={"prefix": prefix}).json().get("items", [])
    assert gone not in [item["item_id"] for item in inside]
    for query in ("", gone):
        found = client.get("/v1/search", params={"q": query, "k": 100}).json()["items"]
        assert gone not in [item["item_id"] for item in found]
    assert client.get(f"/v1/pictures/{gone}").status_code == 404
    examples = client.get("/v1/catalog").json()["examples"]
    assert gone not in [item["item_id"] for history in examples for item in history]
    found = client.get("/v1/search", params={"q": "UNHEARD lamp"}).json()["items"]
    assert [item["item_id"] for item in found] == ["NEW-1"]
    codes = ".".join(map(str, posted["semantic_id"]))
    items = client.get("/v1/tree/items", params={"prefix": codes}).json()["items"]
    assert "NEW-1" in [item["item_id"] for item in items]


def test_nobody_who_is_forgotten_is_an_example(client: TestClient) -> None:
    before = client.get("/v1/catalog").json()["examples"]
    for user_id in client.service.version.recommender.dataset.user_ids:  # type: ignore[attr-defined]
        assert client.delete(f"/v1/users/{user_id}").status_code == 204

    assert len(before) == 8
    assert client.get("/v1/catalog").json()["examples"] == []


def test_a_posted_picture_is_shown(client: TestClient) -> None:
    own = client.get("/v1/search").json()["items"][0]["item_id"]
    picture = client.get(f"/v1/pictures/{own}").content
    new = {"item_id": "NEW-1", "title": "lamp", "image": base64.b64encode(picture).decode()}
    assert client.post("/v1/items", json=new).status_code == 201
    bare = {"item_id": "NEW-2", "title": "lamp"}
    assert client.post("/v1/items", json=bare).status_code == 201

    shown = client.get("/v1/pictures/NEW-1")
    assert shown.headers["content-type"] == "image/jpeg"
    problem(client.get("/v1/pictures/NEW-2"), 404)


def test_the_facts_of_a_run_are_those_of_its_report(opened: Open, evaluated: Path) -> None:
    client = opened(evaluated)
    facts = client.get("/v1/run").json()
    found = measured(RunFolder(evaluated))

    for line, expected in zip(facts["measured"]["headlines"], found["headlines"], strict=True):
        assert line["metric"] == expected.metric
        assert line["score"] == expected.score.model_dump()
    assert facts["measured"]["reference"] == found["evaluation"].reference
    assert facts["codes"]["health"] == read_json(evaluated / "tokenizer" / "health.json")
    log = read_json(evaluated / "recommender" / "log.json")
    charts = {chart["title"]: chart for chart in facts["learned"]["charts"]}
    points = charts["Loss, all terms"]["points"]
    assert points == [[row["epoch"] + 1, row["loss"]] for row in log]
    assert set(facts["seconds"]) == {"prepare", "encode", "tokenize", "train", "evaluate"}


def test_another_run_in_the_folder_is_not_mixed_into_this_one(
    opened: Open, run: Path, other_version: Path, tmp_path: Path
) -> None:
    link = tmp_path / "run"
    link.symlink_to(run)
    client = opened(link)
    link.unlink()
    link.symlink_to(other_version)

    problem(client.get("/v1/run"), 409)
    assert client.get("/v1/tree").status_code == 200
    client.portal.call(client.service.reload)  # type: ignore[attr-defined]
    assert client.get("/v1/run").status_code == 200


def test_static_files_are_cached_by_content_and_nothing_else_is_served(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    again = client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 304
    for path in ("/page/app.js", "/page/shared.css", "/page/icon.svg"):
        assert client.get(path).headers["cache-control"] == "no-cache"
    for path in ("/page/nothing", "/page/..%2Fpage.py", "/page/%2e%2e%2fapp.py", "/page/"):
        problem(client.get(path), 404)
