"""A run is swapped as a whole, under load, or not at all."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from asking import Open, ids, problem, recommended, take
from starlette.testclient import TestClient
from tiny_run import tiny_config

from bbqrec.bundle import RunFolder
from bbqrec.data import draw_shop
from bbqrec.pipeline import run_stages
from bbqrec.recommend import Recommender
from bbqrec.storage import read_json, read_tensors, sha256_file, write_json, write_tensors

ADMIN = {"Authorization": "Bearer sesame"}


def reload(client: TestClient) -> object:
    return client.post("/v1/admin/reload", headers=ADMIN)


def put(run: Path, link: Path) -> None:
    """Let the folder that is served be `run`, as deployments do: by one rename."""
    fresh = link.with_suffix(".fresh")
    fresh.symlink_to(run)
    fresh.rename(link)


def test_answers_under_swaps_are_each_of_one_version_and_none_is_lost(
    run: Path, other_version: Path, tmp_path: Path, opened: Open
) -> None:
    link = tmp_path / "run"
    put(run, link)
    client = opened(link, admin_token="sesame")
    items = Recommender.from_pretrained(run).dataset.item_ids
    ask = {"histories": [items[:3]], "k": 5}
    expected = {}
    for folder in (other_version, run):
        put(folder, link)
        assert reload(client).status_code == 200  # type: ignore[attr-defined]
        body = client.post("/v1/recommend", json=ask).json()
        expected[body["model_version"]] = body["answers"]
    seen = []

    def ask_on() -> None:
        for turn in range(100):
            asked = {**ask, "exclude": [f"nothing {turn}"]}  # never remembered
            seen.append(client.post("/v1/recommend", json=asked))

    asking = threading.Thread(target=ask_on)
    asking.start()
    for turn in range(10):
        put((run, other_version)[turn % 2], link)
        assert reload(client).status_code == 200  # type: ignore[attr-defined]
    asking.join()

    assert len(expected) == 2
    assert [response.status_code for response in seen] == [200] * 100
    for response in seen:
        body = response.json()
        assert body["answers"] == expected[body["model_version"]]


def corrupt(run: Path) -> None:
    path = run / "recommender" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def unfinished(run: Path) -> None:
    shutil.rmtree(run / "recommender")


def poisoned(run: Path) -> None:
    """Weights that are validly hashed, of the right shapes, and useless."""
    folder = run / "recommender"
    weights = read_tensors(folder / "model.safetensors")
    weights["code_embedding.weight"] *= torch.finfo(torch.float32).max
    write_tensors(folder / "model.safetensors", weights)
    manifest = read_json(folder / "manifest.json")
    manifest["sha256"]["model.safetensors"] = sha256_file(folder / "model.safetensors")
    write_json(folder / "manifest.json", manifest)


def foreign(run: Path) -> None:
    """A good run, of another shop."""
    shutil.rmtree(run)
    shop = run.parent / "elsewhere"
    shop.mkdir()
    draw_shop(shop, seed=5, num_items=60, num_users=60)
    for path in shop.glob("*.parquet"):
        frame = pl.read_parquet(path)
        if "item_id" in frame.columns:
            frame.with_columns(pl.col("item_id") + "-elsewhere").write_parquet(path)
    run_stages(RunFolder(run), tiny_config(training={"epochs": 1}), source=shop, until="train")


@pytest.mark.parametrize("spoil", [corrupt, unfinished, poisoned, foreign])
def test_a_version_that_cannot_answer_is_refused_and_the_old_one_keeps_serving(
    spoil: Callable[[Path], None], run: Path, tmp_path: Path, opened: Open
) -> None:
    served = shutil.copytree(run, tmp_path / "run")
    client = opened(served, admin_token="sesame")
    items = Recommender.from_pretrained(run).dataset.item_ids
    before = client.post("/v1/recommend", json={"histories": [items[:2]]}).json()

    spoil(served)
    refused = reload(client)
    after = client.post("/v1/recommend", json={"histories": [items[1:3], items[:2]]}).json()

    assert str(tmp_path) not in problem(refused, 409)["detail"]
    assert after["model_version"] == before["model_version"]
    assert after["answers"][1] == before["answers"][0]
    assert 'bbqrec_swaps_total{result="refused"} 1.0' in client.get("/metrics").text


def test_events_items_and_withdrawals_outlive_a_swap(
    run: Path, other_version: Path, tmp_path: Path, opened: Open
) -> None:
    link = tmp_path / "run"
    put(run, link)
    client = opened(link, admin_token="sesame")
    dataset = Recommender.from_pretrained(run).dataset
    take(client, "u", dataset.item_ids[0])
    item = {"item_id": "new", "title": dataset.titles[0]}
    assert client.post("/v1/items", json=item).status_code == 201
    assert client.delete(f"/v1/items/{dataset.item_ids[1]}").status_code == 204

    put(other_version, link)
    swapped = reload(client).json()  # type: ignore[attr-defined]
    answer = recommended(client, user_ids=["u"], k=1000)[0]

    assert swapped["model_version"] != swapped["previous"]
    assert not answer["is_fallback"]
    assert "new" in ids(answer)
    assert dataset.item_ids[1] not in ids(answer)


def test_swapping_needs_its_own_token_and_is_not_there_without_one(opened: Open) -> None:
    client = opened(token="reader", admin_token="sesame")

    problem(client.post("/v1/admin/reload"), 401)
    problem(client.post("/v1/admin/reload", headers={"Authorization": "Bearer reader"}), 401)
    problem(client.post("/v1/recommend", json={}, headers=ADMIN), 401)
    problem(client.get("/metrics?token=reader"), 401)
    assert client.get("/health/ready").status_code == 200
    assert reload(client).status_code == 200  # type: ignore[attr-defined]
    client.__exit__(None, None, None)
    assert "/v1/admin/reload" not in opened().get("/openapi.json").json()["paths"]
