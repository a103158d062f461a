"""Items come and go while the server answers, and what was done outlives it."""

import base64
import io
from pathlib import Path

from asking import NUM_ITEMS, Open, ids, problem, recommended
from PIL import Image
from starlette.testclient import TestClient

from bbqrec.data import read_images
from bbqrec.recommend import Recommender


def post(client: TestClient, item_id: str, **content: str) -> dict[str, object]:
    response = client.post("/v1/items", json={"item_id": item_id, **content})
    assert response.status_code == 201, response.text
    posted: dict[str, object] = response.json()
    return posted


def test_a_posted_item_is_recommendable_at_once_and_after_a_restart(
    run: Path, opened: Open
) -> None:
    titles = Recommender.from_pretrained(run).dataset.titles
    client = opened()
    before = recommended(client, histories=[[]], k=1000)[0]

    lamp = post(client, "new/1 & co", title=titles[0])
    twin = post(client, "new2", title=titles[0], text="the same words, other item")
    answer = recommended(client, histories=[["new2"]], k=1000)[0]
    similar = client.get("/v1/items/new2/similar", params={"k": 3}).json()
    client.__exit__(None, None, None)
    again = opened()

    assert len(before["items"]) == NUM_ITEMS
    assert lamp["is_new"]
    assert lamp["semantic_id"] != twin["semantic_id"]
    assert {"new/1 & co"} == set(ids(answer)) - set(ids(before))
    assert not answer["is_fallback"]
    assert "new/1 & co" in {item["item_id"] for item in similar["items"]}
    for item in (lamp, twin):
        path = f"/v1/items/{str(item['item_id']).replace('/', '%2F').replace(' ', '%20')}"
        kept = again.get(path).json()
        assert kept == {key: value for key, value in item.items() if key != "model_version"}
    restarted = recommended(again, histories=[["new2"]], k=1000)[0]
    assert ids(restarted) == ids(answer)


def test_a_run_without_pictures_takes_none(wordy: Path, run: Path, opened: Open) -> None:
    title = Recommender.from_pretrained(wordy).dataset.titles[0]
    picture = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()

    client = opened(wordy)
    refused = client.post("/v1/items", json={"item_id": "x", "title": title, "image": image})
    post(client, "plain", title=title)
    client.__exit__(None, None, None)
    both = opened(run)
    post(both, "seen", title=title, image=image)

    assert "without pictures; leave the image out" in problem(refused, 422)["detail"]
    found = both.get("/v1/search", params={"q": title, "k": 30}).json()["items"]
    shown = {card["item_id"]: card["has_picture"] for card in found}
    assert (shown["plain"], shown["seen"]) == (False, True)


def test_an_id_may_end_as_a_path_does(run: Path, client: TestClient) -> None:
    title = Recommender.from_pretrained(run).dataset.titles[0]
    for item_id in ("a", "a/similar", "a/similar/similar"):
        post(client, item_id, title=title)
    encoded = "/v1/items/a%2Fsimilar"

    item = client.get(encoded).json()
    longer = client.get(f"{encoded}%2fsimilar").json()
    near = client.get(f"{encoded}/similar?k=60").json()["items"]
    near_a = client.get("/v1/items/a/similar?k=60").json()["items"]

    assert item["item_id"] == "a/similar"
    assert longer["item_id"] == "a/similar/similar"
    assert {"a", "a/similar"} & {i["item_id"] for i in near} == {"a"}
    assert {"a", "a/similar"} & {i["item_id"] for i in near_a} == {"a/similar"}
    assert client.delete(encoded).status_code == 204
    problem(client.get(encoded), 404)
    assert client.get("/v1/items/a").status_code == 200


def test_a_posted_item_may_be_a_picture_alone(run: Path, client: TestClient) -> None:
    picture = read_images(run / "data", [0])[0]

    item = post(client, "pictured", image=base64.b64encode(picture).decode())

    assert item["is_new"]
    assert "pictured" in ids(recommended(client, histories=[[]], k=1000)[0])


def test_what_the_encoders_cannot_read_is_refused_and_leaves_no_trace(
    run: Path, client: TestClient
) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    explosive = base64.b64encode(bomb.getvalue()).decode()
    known = Recommender.from_pretrained(run).dataset.item_ids[0]
    cases = [
        ({"item_id": "x", "title": "qqq zzz"}, 422, "find nothing they know"),
        ({"item_id": "x", "image": "no base64"}, 422, "not base64"),
        ({"item_id": "x", "image": "b\u00e4se"}, 422, "not base64"),
        ({"item_id": "x", "image": base64.b64encode(b"<html>").decode()}, 422, "none of JPEG"),
        ({"item_id": "x", "image": explosive}, 422, "Bomb"),
        ({"item_id": known, "title": "lamp"}, 409, "of this id"),
    ]

    for body, status, words in cases:
        assert words in problem(client.post("/v1/items", json=body), status)["detail"]

    problem(client.get("/v1/items/x"), 404)
    assert len(recommended(client, histories=[[]], k=1000)[0]["items"]) == NUM_ITEMS


def test_a_withdrawn_item_never_appears_until_it_is_restored(run: Path, opened: Open) -> None:
    client = opened()
    items = Recommender.from_pretrained(run).dataset.item_ids
    first = ids(recommended(client, histories=[items[:1]], k=5)[0])[0]

    assert client.delete(f"/v1/items/{first}").status_code == 204
    for answering in (client, None):
        if answering is None:
            client.__exit__(None, None, None)
            client = answering = opened()
        lists = recommended(client, histories=[items[:1], [], [first]], k=1000, exclude_seen=False)
        allowed = recommended(client, histories=[[]], allow=[first])[0]
        near = client.get(f"/v1/items/{items[0]}/similar?k=60").json()["items"]
        assert [len(answer["items"]) for answer in lists] == [NUM_ITEMS - 1] * 3
        assert not any(first in ids(answer) for answer in lists)
        assert not allowed["items"]
        assert first not in {item["item_id"] for item in near}
        problem(client.get(f"/v1/items/{first}"), 404)
        problem(client.delete(f"/v1/items/{first}"), 404)

    assert client.delete(f"/v1/withdrawn/{first}").status_code == 204
    assert ids(recommended(client, histories=[items[:1]], k=5)[0])[0] == first
    problem(client.delete(f"/v1/withdrawn/{first}"), 404)
