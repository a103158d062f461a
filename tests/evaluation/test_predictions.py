"""Lists from files count exactly as the same lists from a model."""

from pathlib import Path

import ir_measures
import numpy as np
import orjson
import polars as pl
import pytest
import torch
from small_datasets import random_dataset

from bbqrec.errors import DataError, RequestError
from bbqrec.evaluation import evaluate, read_predictions, write_trec
from bbqrec.recommender import fit_popularity

DATASET = random_dataset(40, 30, seed=0, follows=0.7)
CASES = DATASET.test


def answers(depth: int = 30) -> torch.Tensor:
    ranker = fit_popularity(DATASET)
    return ranker.rank(CASES.histories.to_histories(), depth, exclude_seen=False).items


def rows() -> list[dict[str, object]]:
    return [
        {"user_id": DATASET.user_ids[user], "item_id": DATASET.item_ids[item], "rank": rank}
        for user, items in zip(CASES.users.tolist(), answers().tolist(), strict=True)
        for rank, item in enumerate(items, start=1)
    ]


def written(directory: Path, form: str) -> Path:
    shuffled = [rows()[i] for i in np.random.default_rng(0).permutation(len(rows()))]
    frame = pl.DataFrame(shuffled)
    path = directory / f"predictions.{form.removeprefix('lists.')}"
    if form == "parquet":
        frame.write_parquet(path)
    elif form == "csv":
        frame.select("user_id", "item_id", score=-pl.col("rank")).write_csv(path)
    elif form == "jsonl":
        path.write_bytes(b"\n".join(map(orjson.dumps, shuffled)))
    elif form == "lists.jsonl":
        lists = frame.sort("rank").group_by("user_id").agg(items="item_id").to_dicts()
        path.write_bytes(b"\n".join(map(orjson.dumps, lists)))
    else:
        lines = [f"{r['user_id']} Q0 {r['item_id']} 0 {-r['rank']} x" for r in shuffled]
        path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "lists.jsonl", "trec"])
def test_a_file_scores_as_the_model_that_wrote_it(tmp_path: Path, form: str) -> None:
    lists = read_predictions(written(tmp_path, form), DATASET, CASES)

    found = evaluate({"model": fit_popularity(DATASET)}, CASES, DATASET, lists={"file": lists})

    assert torch.equal(lists, answers())
    for setting in ("kept", "filtered"):
        ranks = {name: by_setting[setting] for name, by_setting in found.ranks.items()}
        assert np.array_equal(ranks["file"], ranks["model"])
        model, file = (found.models[name][setting] for name in ("model", "file"))
        assert file.overall.metrics == model.overall.metrics
        assert (file.coverage, file.filled) == (model.coverage, model.filled)


def test_unknown_items_hold_their_place_and_absent_users_miss(tmp_path: Path) -> None:
    user = DATASET.user_ids[CASES.users[3]]
    target = DATASET.item_ids[CASES.targets[3]]
    path = tmp_path / "p.jsonl"
    path.write_bytes(orjson.dumps({"user_id": user, "items": ["nowhere", target]}))

    lists = read_predictions(path, DATASET, CASES)
    found = evaluate({}, CASES, DATASET, lists={"file": lists})

    assert found.ranks["file"]["kept"].tolist() == [2 if case == 3 else 0 for case in range(40)]


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.jsonl"
    stranger.write_bytes(b'{"user_id": "nobody", "items": ["i1"]}')
    torn = tmp_path / "torn.csv"
    torn.write_text("user_id,item_id,score\nu0,i1,high\n")
    nameless = tmp_path / "nameless.csv"
    nameless.write_text("who,what\nu0,i1\n")
    orderless = tmp_path / "orderless.csv"
    orderless.write_text("user_id,item_id\nu0,i1\n")
    short = tmp_path / "short.trec"
    short.write_text("u0 i1 1\n")

    for path, message in (
        (stranger, "none of the 40 users"),
        (torn, "row 1: score is 'high'"),
        (nameless, "user_id, item_id and rank"),
        (orderless, "has no column rank or score; give columns"),
        (short, "line 1: a TREC run has 6 fields"),
        (tmp_path / "x.txt", "no file of predictions"),
    ):
        with pytest.raises(DataError, match=message):
            read_predictions(path, DATASET, CASES)
    twice = torch.tensor([[1, 1]]).expand(40, 2)
    with pytest.raises(RequestError, match="twice"):
        evaluate({}, CASES, DATASET, lists={"file": twice})


def test_trec_files_say_what_ours_say(tmp_path: Path) -> None:
    ranker = fit_popularity(DATASET)

    write_trec(tmp_path, ranker, CASES, DATASET, k=20, exclude_seen=True)

    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec")))
    theirs = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.R @ 10], qrels, run)
    ours = evaluate({"m": ranker}, CASES, DATASET).models["m"]["filtered"].overall.metrics
    assert theirs[ir_measures.nDCG @ 10] == pytest.approx(ours["ndcg@10"].mean)
    assert theirs[ir_measures.R @ 10] == pytest.approx(ours["recall@10"].mean)


def test_trec_cannot_express_ids_with_spaces(tmp_path: Path) -> None:
    spaced = random_dataset(40, 30, seed=0)
    spaced.item_ids[0] = "a b"

    with pytest.raises(DataError, match="white space"):
        write_trec(tmp_path, fit_popularity(spaced), spaced.test, spaced, k=20, exclude_seen=True)
