"""`bbqrec benchmark` and `bbqrec score` from the outside."""

import json
import math
import re
from pathlib import Path

import ir_measures
import orjson
import pytest
from command_line import answer, invoke, refusal
from tiny_run import draw_tiny_shop

SETTINGS = ("filtered", "kept")
MATRIX = """
reference = "popularity"
[data.shop]
folder = "shop"
[rows.popularity]
kind = "popularity"
[rows.item-kNN]
kind = "item_knn"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparing")
    draw_tiny_shop(folder / "shop")
    return folder


def test_a_benchmark_runs_continues_and_writes_its_tables(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "bench.toml"
    config.write_text(MATRIX)
    folders = ("--out", tmp_path / "results", "--work", tmp_path / "work")

    first = answer("benchmark", config, "--data", data, *folders)
    again = invoke("benchmark", config, *folders, "--final")

    assert set(first["shop"]["models"]) == {"popularity", "item-kNN"}
    assert first["shop"]["split"] == "validation"
    assert again.exit_code == 0, again.stderr
    assert "2 of 2 cells are there already" in again.stderr
    table = (tmp_path / "results" / "bench" / "bench.md").read_text()
    assert "| item-kNN | 1 |" in table
    assert "--final` from the cells" in table

    invoke("benchmark", config, *folders, "--reference", "item-kNN")

    table = (tmp_path / "results" / "bench" / "bench.md").read_text()
    assert "--reference item-kNN` from the cells" in table
    assert "| against item-kNN |" in table


def test_benchmarks_that_name_a_row_alike_keep_their_own_cells(data: Path, tmp_path: Path) -> None:
    for name, latest in (("one", 5), ("two", 6)):
        settings = f"settings.prepare.latest = {latest}\n"
        (tmp_path / f"{name}.toml").write_text(settings + MATRIX)
    folders = ("--out", tmp_path / "results", "--work", tmp_path / "work", "--only", "popularity")

    for name in ("one", "two", "one"):
        last = invoke("benchmark", tmp_path / f"{name}.toml", "--data", data, *folders)

    assert "1 of 1 cells are there already" in last.stderr


def test_only_the_cells_asked_for_are_made(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "bench.toml"
    config.write_text(MATRIX + '[data.again]\nfolder = "shop"\n')
    folders = ("--out", tmp_path / "results", "--work", tmp_path / "work")

    invoke("benchmark", config, "--data", data, *folders, "--only", "popularity", "--on", "again")

    cells = (tmp_path / "results" / "bench" / "cells").rglob("*-seed0.json")
    assert [path.parent.name + "/" + path.stem for path in cells] == ["again/popularity-seed0"]


def test_lists_of_another_recommender_are_scored_beside_baselines(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert invoke("prepare", data / "shop", "--out", run).exit_code == 0
    ids = json.loads((run / "data" / "ids.json").read_text())
    lists = tmp_path / "theirs.jsonl"
    lists.write_bytes(
        b"\n".join(
            orjson.dumps({"user_id": user, "items": ids["items"][:30]}) for user in ids["users"]
        )
    )

    of_run = answer("score", lists, "--data", run)
    of_source = answer("score", lists, "--data", data / "shop", "--split", "validation")

    assert set(of_run["models"]) == {"popularity", "item-kNN", "theirs"}
    assert of_run["models"]["theirs"]["kept"]["coverage"] == 10 / of_run["num_items"]
    assert (of_run["split"], of_source["split"]) == ("test", "validation")


def test_the_lists_of_the_documentation_are_scored_as_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    _, _, section = page.partition("## Lists of another recommender\n")
    shop, *forms = re.findall(r"```\w+\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    (tmp_path / "shop.csv").write_text(shop)
    endings = ("jsonl", "csv", "trec")
    found = []

    for ending, lists in zip(endings, forms, strict=True):
        (tmp_path / f"theirs.{ending}").write_text(lists)
        metrics = answer("score", tmp_path / f"theirs.{ending}", "--data", tmp_path / "shop.csv")
        theirs = metrics["models"]["theirs"]
        found.append([theirs[s]["overall"]["metrics"]["ndcg@10"]["mean"] for s in SETTINGS])

    second = 1 / math.log2(3)
    assert found == [[pytest.approx((1 + 1 + 0.5) / 3), pytest.approx((1 + second + 0.5) / 3)]] * 3
    assert all(f"{mean:.4f}".removeprefix("0") in section for mean in (*found[0], second))


def test_a_run_is_written_for_trec_tools(run: Path, tmp_path: Path) -> None:
    metrics = answer("evaluate", run, "--trec", tmp_path / "trec")

    found = ir_measures.calc_aggregate(
        [ir_measures.nDCG @ 10],
        ir_measures.read_trec_qrels(str(tmp_path / "trec" / "qrels.trec")),
        ir_measures.read_trec_run(str(tmp_path / "trec" / "run.trec")),
    )
    ours = metrics["test"]["models"]["BBQRec"]["filtered"]["overall"]["metrics"]["ndcg@10"]
    assert found[ir_measures.nDCG @ 10] == pytest.approx(ours["mean"], abs=1e-6)


def test_what_cannot_be_compared_is_refused(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "bench.toml"
    config.write_text(MATRIX.replace('"popularity"\n[data', '"SASRec"\n[data'))
    stranger = tmp_path / "stranger.jsonl"
    stranger.write_text('{"user_id": "nobody", "items": []}')

    assert "none of the rows" in refusal("benchmark", config, "--data", data)
    known = tmp_path / "known.toml"
    known.write_text(MATRIX)
    assert "no row 'SASRec'" in refusal("benchmark", known, "--data", data, "--only", "SASRec")
    assert "no data set 'films'" in refusal("benchmark", known, "--data", data, "--on", "films")
    assert "none of the" in refusal("score", stranger, "--data", data / "shop", "--quiet")
