"""Runs: cached by what each stage depends on, resumable, and refused when damaged."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny_run import TINY, draw_tiny_shop, tiny_config

from bbqrec.bundle import STAGE_FOLDERS, RunFolder
from bbqrec.config import as_toml, read_toml
from bbqrec.data import write_index_json
from bbqrec.errors import (
    BBQRecError,
    ConfigError,
    CorruptArtifactError,
    SemanticIdError,
    StorageError,
)
from bbqrec.pipeline import find_config, run_stages
from bbqrec.recommend import Recommender
from bbqrec.run_config import RunConfig
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import read_json, read_tensors, sha256_file, write_json
from bbqrec.summary import summarize


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "bbqrec", *map(str, arguments), "--quiet", "--json"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose semantic IDs are ready, made by the command line in processes of its own."""
    folder = tmp_path_factory.mktemp("runs")
    shop = draw_tiny_shop(folder / "shop")
    (folder / "tiny.toml").write_text(as_toml(tiny_config()))
    run = RunFolder(folder / "run")
    first = command("prepare", shop, "--out", run.directory, "--config", folder / "tiny.toml")
    for step in (first, command("tokenize", run.directory)):
        subprocess.run(step, check=True, stdout=subprocess.DEVNULL)
    return run


@pytest.fixture(scope="module")
def finished(prepared: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    shutil.copytree(prepared.directory, run.directory)
    subprocess.run(command("evaluate", run.directory), check=True, stdout=subprocess.DEVNULL)
    return run


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished.directory, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def stamps(run: RunFolder) -> dict[str, int]:
    return {
        stage: (run.folder(stage) / "manifest.json").stat().st_mtime_ns for stage in STAGE_FOLDERS
    }


@pytest.mark.parametrize(
    ("changes", "repeated"),
    [
        ({}, set()),
        ({"evaluation": {"num_bootstrap": 60}}, {"evaluate"}),
        ({"training": {"epochs": 1}}, {"train", "evaluate"}),
        ({"tokenizer": {"epochs": 2}}, {"tokenize", "train", "evaluate"}),
    ],
)
def test_a_changed_setting_repeats_only_what_depends_on_it(
    run: RunFolder, changes: dict[str, dict[str, int]], repeated: set[str]
) -> None:
    before = stamps(run)

    run_stages(run, tiny_config(**changes), source=None, until="evaluate")

    after = stamps(run)
    assert {stage for stage in STAGE_FOLDERS if before[stage] != after[stage]} == repeated


def test_a_stage_that_is_done_again_says_whether_it_was_damaged(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bbqrec")
    changed = tiny_config(training={"epochs": 1})

    run_stages(run, changed, source=None, until="train")
    said = caplog.messages.copy()
    caplog.clear()
    (run.folder("train") / "log.json").write_text("[]")
    run_stages(run, changed, source=None, until="train")

    assert "train: settings or data changed, doing it again ..." in said
    assert "tokenize: unchanged, kept" in caplog.messages
    assert "train: damaged, doing it again ..." in caplog.messages


def test_a_changed_preparation_reads_the_source_again(run: RunFolder) -> None:
    users = run.dataset().num_users

    run_stages(run, tiny_config(prepare={"min_user": 12}), source=None, until="prepare")

    assert 0 < run.dataset().num_users < users
    assert read_json(run.config_path)["prepare"]["min_user"] == 12


def test_a_changed_preparation_whose_source_is_gone_is_refused_and_not_recorded(
    run: RunFolder,
) -> None:
    manifest = run.manifest("prepare")
    manifest["source"]["path"] = "/gone/shop"
    write_json(run.folder("prepare") / "manifest.json", manifest)
    before = read_json(run.config_path)

    with pytest.raises(ConfigError, match=r"another prepare.min_user, .*/gone/shop .*give --data"):
        run_stages(run, tiny_config(prepare={"min_user": 12}), source=None, until="evaluate")

    assert read_json(run.config_path) == before
    run_stages(run, tiny_config(), source=None, until="evaluate")  # needs no source


def test_another_source_does_not_replace_a_run(run: RunFolder, tmp_path: Path) -> None:
    held = run.source()
    assert held is not None
    other = draw_tiny_shop(tmp_path / "other")  # as large, written at another time
    moved = shutil.copytree(held.path, tmp_path / "moved")  # keeps the times of files
    before = stamps(run)

    with pytest.raises(StorageError, match=f"holds a run on {held.path}, .*give another folder"):
        run_stages(run, tiny_config(), source=other, until="prepare")
    run_stages(run, tiny_config(), source=moved, until="prepare")

    assert stamps(run) == before


def test_a_source_that_changed_is_prepared_again(tmp_path: Path) -> None:
    run, shop = RunFolder(tmp_path / "run"), draw_tiny_shop(tmp_path / "shop")
    run_stages(run, tiny_config(), source=shop, until="prepare")
    first = run.dataset().num_users
    log = pl.read_parquet(shop / "interactions.parquet")
    log.filter(pl.col("user_id") != log["user_id"][0]).write_parquet(shop / "interactions.parquet")

    run_stages(run, tiny_config(), source=shop, until="prepare")

    assert run.dataset().num_users == first - 1


def test_a_recommender_of_another_catalog_is_refused_with_the_remedy(run: RunFolder) -> None:
    """As many items, but numbered otherwise: every answer would name the wrong one."""
    run_stages(run, tiny_config(prepare={"seed": 1}), source=None, until="prepare")

    with pytest.raises(CorruptArtifactError, match=r"other items than .*`bbqrec run --out .*` br"):
        Recommender.from_pretrained(run.directory)


def test_metrics_name_what_they_depend_on(finished: RunFolder) -> None:
    metrics = read_json(finished.directory / "metrics.json")

    for split in ("validation", "test"):
        for setting in ("kept", "filtered"):
            overall = metrics[split]["models"]["BBQRec"][setting]["overall"]["metrics"]
            assert 0 <= overall["ndcg@10"]["mean"] <= overall["recall@10"]["mean"] <= 1
    assert metrics["environment"]["threads"] == 1
    assert metrics["seed"] == 0
    assert metrics["content"] == {
        name: sha256_file(finished.folder("prepare") / name)
        for name in ("ids.json", "items.parquet", "images.parquet")
    }
    assert metrics["config"]["training"]["epochs"] == TINY["training"]["epochs"]
    assert set(metrics["wall_s"]) == {"prepare", "encode", "tokenize", "train", "evaluate"}


def test_memory_is_told_beside_the_files_that_a_repeated_training_repeats(
    finished: RunFolder,
) -> None:
    values, _ = summarize(finished, "train")

    assert values["peak_mb"] == finished.manifest("train")["peak_mb"] > 50
    for name in ("model.json", "log.json"):
        assert "peak_mb" not in (finished.folder("train") / name).read_text()


def test_a_loaded_run_recommends_what_was_evaluated(finished: RunFolder) -> None:
    recommender = Recommender.from_pretrained(finished.directory)
    dataset = recommender.dataset
    ranks = read_tensors(finished.folder("evaluate") / "test_ranks.safetensors")["BBQRec.filtered"]
    histories = [
        [dataset.item_ids[item] for item in dataset.test.histories.row(case)] for case in range(20)
    ]

    answers = recommender.recommend(histories, k=20)

    for case, answer in enumerate(answers):
        listed = [item.item_id for item in answer.items]
        target = dataset.item_ids[int(dataset.test.targets[case])]
        rank = listed.index(target) + 1 if target in listed else 0
        assert rank == int(ranks[case]) * (int(ranks[case]) <= 20)
        assert not set(listed) & set(histories[case])


@pytest.mark.parametrize(
    "name",
    [
        "recommender/model.safetensors",
        "recommender/model.json",
        "tokenizer/semantic_ids.safetensors",
        "data/ids.json",
        "data/sequences.safetensors",
    ],
)
@pytest.mark.parametrize("fault", ["missing", "truncated", "flipped"])
def test_a_damaged_run_is_refused_by_name(run: RunFolder, name: str, fault: str) -> None:
    path = run.directory / name
    content = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    elif fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    with pytest.raises(CorruptArtifactError, match=path.name):
        Recommender.from_pretrained(run.directory)


def test_semantic_ids_of_another_run_are_refused(run: RunFolder) -> None:
    ids = run.semantic_ids()
    with run.write_stage("tokenize", "another key") as directory:
        SemanticIds(ids.codes.flip(0), ids.codebook_sizes).save(
            directory / "semantic_ids.safetensors"
        )

    with pytest.raises(SemanticIdError, match=r"other semantic IDs.*`bbqrec run --out"):
        Recommender.from_pretrained(run.directory)


def test_a_second_command_on_the_same_run_is_refused(run: RunFolder) -> None:
    with run.locked(), pytest.raises(StorageError, match="another command"):
        run_stages(run, tiny_config(), source=None)


def test_users_without_known_items_get_flagged_popular_items(finished: RunFolder) -> None:
    recommender = Recommender.from_pretrained(finished.directory)
    known = recommender.dataset.item_ids[0]
    popular = recommender.dataset.popularity().argmax()

    answers = recommender.recommend([[], ["no such item"], [known, "no such item"]], k=3)

    assert [answer.is_fallback for answer in answers] == [True, True, False]
    assert answers[0].items[0].item_id == recommender.dataset.item_ids[popular]
    assert answers[2].unknown_items == ["no such item"]
    alone = recommender.recommend([[known]], k=3)[0]
    assert [item.item_id for item in alone.items] == [i.item_id for i in answers[2].items]


@pytest.mark.parametrize("request_", ["[[1, 2]]", "[['a']], allowed=[7]"])
def test_ids_that_are_no_strings_are_refused(finished: RunFolder, request_: str) -> None:
    """In a process of its own, where annotations are not checked."""
    code = f"from bbqrec import Recommender as R; R.from_pretrained({str(finished.directory)!r})"

    asked = [sys.executable, "-c", f"{code}.recommend({request_})"]
    result = subprocess.run(asked, capture_output=True, text=True, check=False)

    assert re.search(r"RequestError: item ids are strings, but [17] is of type int", result.stderr)


def test_only_allowed_items_are_recommended(finished: RunFolder) -> None:
    recommender = Recommender.from_pretrained(finished.directory)
    allowed = recommender.dataset.item_ids[5:9]

    answer = recommender.recommend([[recommender.dataset.item_ids[5]]], k=10, allowed=allowed)[0]

    assert {item.item_id for item in answer.items} == set(allowed[1:])


def test_semantic_ids_made_elsewhere_are_used_as_ours(prepared: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(prepared.directory, run.directory)
    item_ids = run.dataset().item_ids
    codes = torch.tensor([[item % 8, item // 8] for item in range(len(item_ids))])
    elsewhere = tmp_path / "shop.index.json"
    write_index_json(elsewhere, item_ids, SemanticIds(codes, (8, 8)))
    config = tiny_config().model_copy(update={"semantic_ids": str(elsewhere)})

    run_stages(run, config, source=None, until="train")

    assert torch.equal(run.trained_semantic_ids().codes.long(), codes)
    known = item_ids[:2]
    assert len(Recommender.from_pretrained(run.directory).recommend([known], k=5)[0].items) == 5


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_command_continues_to_the_same_weights(
    prepared: RunFolder, finished: RunFolder, tmp_path: Path, sig: signal.Signals
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(prepared.directory, run.directory)
    train = command("train", run.directory, "--set", "training.checkpoint_every_s=0")

    process = subprocess.Popen(train, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(run.checkpoints.glob("train-*/step-*/manifest.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.005)
    process.send_signal(sig)
    code = process.wait()
    assert not run.folder("train").exists()
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL)

    assert code == (130 if sig == signal.SIGINT else -sig)
    weights = read_tensors(run.folder("train") / "model.safetensors")
    expected = read_tensors(finished.folder("train") / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    digests = [x.manifest("train")["sha256"] for x in (run, finished)]
    assert digests[0] == digests[1]
    assert not list(run.checkpoints.glob("train-*"))


@pytest.mark.parametrize("name", ["demo", "beauty", "ml1m"])
def test_the_settings_that_come_along_are_valid(name: str) -> None:
    RunConfig.parse(read_toml(find_config(name)))


def test_settings_survive_a_round_trip_through_toml(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    config = tiny_config(
        prepare={"columns": {"user_id": 'the "who"'}, "event_weights": {"add to cart.": 0.5}},
        encode={"text": {"encoder": "lexical", "dim": 8}},
    )
    path.write_text(as_toml(config))

    assert RunConfig.parse(read_toml(path)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainning": {}}, "trainning: there is no such setting .did you mean training.*training"),
        ({"training": {"epoch": 3}}, "training.epoch: .*known here: .*epochs"),
        ({"training": {"epochs": 0}}, "training.epochs: .*greater than or equal to 1.*0"),
        ({"training": {"epochs": "3"}}, "training.epochs: .*integer.*'3'"),
        ({"ranking": {"rank_by": "magic"}}, "ranking.rank_by: .*'generative'"),
        (
            {"ranking": {"rank_by": "both"}, "training": {"generative_weight": 0}},
            '"both" needs a score that training.generative_weight = 0 leaves',
        ),
        (
            {"compare": ["generative"], "training": {"generative_weight": 0.0}},
            '"generative" needs a score that training.generative_weight = 0 leaves',
        ),
        (
            {"training": {"dense_weight": 0.0}},
            '"dense" needs a score that training.dense_weight = 0 leaves',
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_rule(values: dict[str, object], message: str) -> None:
    with pytest.raises(BBQRecError, match=message):
        RunConfig.parse(values)
