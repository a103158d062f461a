"""Are posted items as good as cold ones? `python benchmarks/cold_posts.py RUN` of a cold split.

The cold items of the run were in no training, but offline they are in the catalog from the start.
Here 50 of them at a time are cut out of the very same model, then posted one by one to a server of
it (POST /v1/items), and run and server answer the cases whose target is one of them. Then all are
withdrawn and the server is asked again. Exits with 1 when posting reaches less than 90 % of the
offline Recall@10, or a withdrawn item comes back.

New items are seldom likely, so that hits are rare; `--boost 1.5` shows them more, on both sides.
"""

import argparse
import base64
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import polars as pl
import torch
from starlette.testclient import TestClient
from torch import Tensor

from bbqrec.bundle import RunFolder
from bbqrec.data import Cases, Dataset, Sequences, has_images, read_images
from bbqrec.decoding import DenseRanker
from bbqrec.features import load_features
from bbqrec.recommend import Recommender
from bbqrec.semantic_ids import SemanticIds
from bbqrec.serving import EventStore, ServeConfig, Service, create_app
from bbqrec.serving.api import MAX_USERS
from bbqrec.storage import read_json, read_tensors, write_json, write_tensors

K = 10
BAR = 0.9


def cut_out(run: RunFolder, out: Path, gone: list[int], boost: float) -> RunFolder:
    """The same run without some cold items, renumbered."""
    dataset, cut = run.dataset(), RunFolder(out)
    kept = np.delete(np.arange(dataset.num_items), gone)
    number = np.full(dataset.num_items, -1)
    number[kept] = np.arange(len(kept))
    rows = torch.from_numpy(kept)

    def renumbered(sequences: Sequences) -> Sequences:
        return Sequences(number[sequences.items].astype(np.int32), sequences.offsets)

    def without_targets(cases: Cases) -> Cases:
        part = cases.take(np.flatnonzero(number[cases.targets] >= 0))
        targets = number[part.targets].astype(np.int32)
        return Cases(part.users, renumbered(part.histories), targets)

    with cut.write_stage("prepare", "cut") as directory:
        replace(
            dataset,
            item_ids=[dataset.item_ids[item] for item in kept],
            titles=[dataset.titles[item] for item in kept],
            train=renumbered(dataset.train),
            validation=without_targets(dataset.validation),
            test=without_targets(dataset.test),
            is_cold=dataset.is_cold[kept],
        ).save(directory)
        texts = pl.read_parquet(run.folder("prepare") / "items.parquet", glob=False)
        texts[kept].write_parquet(directory / "items.parquet")
    catalog = cut.dataset().catalog_fingerprint
    with cut.write_stage("encode", "cut") as directory:
        shutil.copytree(run.folder("encode") / "encoders", directory / "encoders")
        for f in load_features(
            run.folder("encode"), catalog_fingerprint=dataset.catalog_fingerprint
        ):
            identity = {**f.identity, "catalog_fingerprint": catalog}
            replace(
                f, vectors=f.vectors[rows], is_present=f.is_present[rows], identity=identity
            ).save(directory)
    ids = run.semantic_ids()
    ids = SemanticIds(ids.codes[rows], ids.codebook_sizes)
    with cut.write_stage("tokenize", "cut") as directory:
        ids.save(directory / "semantic_ids.safetensors")
        for name in ("weights", "item_vectors"):
            tensors = read_tensors(run.folder("tokenize") / f"{name}.safetensors")
            write_tensors(directory / f"{name}.safetensors", of_items(tensors, rows, dataset))
    with cut.write_stage("train", "cut") as directory:
        weights = read_tensors(run.folder("train") / "model.safetensors")
        neighbors = {n: x for n, x in weights.items() if n.startswith("catalog.neighbor_")}
        plain = {n: x for n, x in weights.items() if n not in neighbors}
        weights = of_items(plain, rows, dataset) | cut_neighbors(neighbors, rows, number)
        write_tensors(directory / "model.safetensors", weights)
        about = read_json(run.folder("train") / "model.json")
        about |= {"catalog": catalog, "semantic_ids": ids.fingerprint, "built_for": len(kept)}
        about["ranking"]["new_item_boost"] = boost
        write_json(directory / "model.json", about)
    shutil.copy(run.config_path, cut.config_path)
    return cut


def of_items(tensors: dict[str, Tensor], rows: Tensor, dataset: Dataset) -> dict[str, Tensor]:
    """Whatever has a row per item, without those of the others."""
    size = dataset.num_items
    return {n: x[rows] if x.ndim and len(x) == size else x for n, x in tensors.items()}


def cut_neighbors(tables: dict[str, Tensor], rows: Tensor, number: np.ndarray) -> dict[str, Tensor]:
    """Rows of items that are gone are dropped; as neighbors of others they become nothing."""
    result = dict(tables)
    for name in [n for n in tables if n.startswith("catalog.neighbor_items.")]:
        kind = name.removeprefix("catalog.neighbor_items.")
        items, buckets = tables[name], tables[f"catalog.neighbor_buckets.{kind}"]
        every = torch.cat([rows, torch.tensor([items.shape[1] - 1])])  # the last stands for none
        items, buckets = items[:, every].long(), buckets[:, every].clone()
        nothing = len(tables[f"catalog.neighbor_edges.{kind}"]) + 1
        new = torch.from_numpy(number)[items]
        buckets[new < 0] = nothing
        result[name] = new.clamp(min=0).int()
        result[f"catalog.neighbor_buckets.{kind}"] = buckets
    return result


def described(run: RunFolder, items: list[int]) -> list[dict[str, str]]:
    """The items as a shop would post them."""
    folder, dataset = run.folder("prepare"), run.dataset()
    texts = pl.read_parquet(folder / "items.parquet", glob=False)
    pictures = read_images(folder, items) if has_images(folder) else {}
    title = dataset.info["columns"]["title"]
    names = [name for name in texts.columns if name not in ("item_id", title)]
    posted = []
    for item in items:
        row = texts.row(item, named=True)
        body = {
            "item_id": dataset.item_ids[item],
            "title": (row.get(title) or "") if title else "",
            "text": "\n".join(row[name] for name in names if row[name]),
            "image": base64.b64encode(pictures.get(item) or b"").decode(),
        }
        posted.append({name: value for name, value in body.items() if value})
    return posted


def listed(recommender: Recommender, histories: list[list[str]]) -> list[list[str]]:
    answers = recommender.recommend(histories, K, exclude_seen=True)
    return [[item.item_id for item in answer.items] for answer in answers]


def served(client: TestClient, histories: list[list[str]]) -> list[list[str]]:
    found = []
    for start in range(0, len(histories), MAX_USERS):
        asked = {"histories": histories[start : start + MAX_USERS], "k": K}
        answer = client.post("/v1/recommend", json=asked).raise_for_status().json()
        found += [[item["item_id"] for item in user["items"]] for user in answer["answers"]]
    return found


def cases_of(dataset: Dataset, items: list[int]) -> list[tuple[list[str], str]]:
    """History and target of every case, validation and test, that asks for one of `items`."""
    found = []
    for cases in (dataset.validation, dataset.test):
        for case in np.flatnonzero(np.isin(cases.targets, items)).tolist():
            history = [dataset.item_ids[item] for item in cases.histories.row(case)]
            found.append((history, dataset.item_ids[int(cases.targets[case])]))
    return found


class Posting(NamedTuple):
    """What a server answered when the items were posted, how long each took, who was refused."""

    lists: list[list[str]]
    seconds: list[float]
    refused: list[str]


def post(cut: RunFolder, bodies: list[dict[str, str]], histories: list[list[str]]) -> Posting:
    """Post items to a server of `cut`, ask it, withdraw them, and ask again."""
    seconds, refused = [], []
    service = Service(cut.root, EventStore(str(cut.root / "events")), ServeConfig())
    with TestClient(create_app(service), base_url="http://localhost") as client:
        for body in bodies:
            begin = time.perf_counter()
            answer = client.post("/v1/items", json=body)
            seconds.append(time.perf_counter() - begin)
            if answer.is_error:  # one without any content cannot be posted
                refused.append(body["item_id"])
                print(f"refused: {answer.text}", file=sys.stderr)
        lists = served(client, histories)
        taken = [body["item_id"] for body in bodies if body["item_id"] not in refused]
        for item_id in taken:
            client.delete(f"/v1/items/{quote(item_id, safe='')}").raise_for_status()
        if back := {item for ids in served(client, histories) for item in ids} & set(taken):
            sys.exit(f"MISSED withdrawn items were recommended: {', '.join(sorted(back))}")
    return Posting(lists, seconds, refused)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run with prepare.split = cold")
    parser.add_argument("--size", type=int, default=50, help="items posted in one go")
    parser.add_argument("--groups", type=int, default=3, help="how many times other ones")
    parser.add_argument("--boost", type=float, default=0.0, help="ranking.new_item_boost")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = RunFolder(arguments.run)
    offline = Recommender.load(run)
    assert isinstance(offline.ranker, DenseRanker)
    offline.ranker = replace(offline.ranker, new_item_boost=arguments.boost)
    dataset = offline.dataset
    cold = np.random.default_rng(0).permutation(np.flatnonzero(dataset.is_cold)).tolist()
    hits: dict[str, list[bool]] = {"offline": [], "posted": []}
    shared, refused, post_s = [], [], []
    for start in range(0, min(len(cold), arguments.size * arguments.groups), arguments.size):
        items = cold[start : start + arguments.size]
        cases = cases_of(dataset, items)
        histories = [history for history, _ in cases]
        with tempfile.TemporaryDirectory() as folder:
            cut = cut_out(run, Path(folder) / "cut", items, arguments.boost)
            posting = post(cut, described(run, items), histories)
        refused += posting.refused
        post_s += posting.seconds
        lists = {"offline": listed(offline, histories), "posted": posting.lists}
        for name, answers in lists.items():
            hits[name] += [target in a for a, (_, target) in zip(answers, cases, strict=True)]
        pairs = zip(*lists.values(), strict=True)
        shared += [len(set(a) & set(b)) / K for a, b in pairs]
    recall = {name: float(np.mean(values)) for name, values in hits.items()}
    ratio = recall["posted"] / recall["offline"] if recall["offline"] else float("nan")
    result: dict[str, Any] = {
        "run": str(arguments.run),
        "boost": arguments.boost,
        "items": len(post_s),
        "refused": len(refused),
        "cases": len(shared),
        "recall@10": {name: round(value, 4) for name, value in recall.items()},
        "ratio": round(ratio, 3),
        "shared_of_the_first_10": round(float(np.mean(shared)), 3),
        "median_post_s": round(float(np.median(post_s)), 2),
    }
    print(json.dumps(result, indent=2))
    is_met = ratio >= BAR
    print(f"{'met   ' if is_met else 'MISSED'} posted items reach {BAR:.0%} of the offline recall")
    print("met    withdrawn items never appear again")
    sys.exit(not is_met)


if __name__ == "__main__":
    main()
