"""Requests are answered, one or a file of them, or refused in one sentence."""

import io
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import COMMA, NUM_ITEMS, answer, invoke, item_name, refusal
from rich.console import Console

import bbqrec
from bbqrec.bundle import RunFolder
from bbqrec.cli import app
from bbqrec.recommend import Recommender
from bbqrec.storage import read_json, sha256_file, write_json
from bbqrec.summary import recommendation_table, summarize


def test_recommendations_have_titles_and_log_probabilities(finished: Path) -> None:
    ask = ("recommend", finished, "--history", f'["{COMMA}", "i7"]')

    top = answer(*ask, "-k", "5")
    everything = answer(*ask, "-k", str(NUM_ITEMS), "--include-seen")
    table = invoke(*ask, "-k", "5")

    assert len(top["items"]) == 5
    assert not {item["item_id"] for item in top["items"]} & {COMMA, "i7"}
    scores = [item["log_probability"] for item in everything["items"]]
    assert scores == sorted(scores, reverse=True)
    assert {item["item_id"] for item in everything["items"]} == set(
        map(item_name, range(NUM_ITEMS))
    )
    assert all(item["item_id"] in table.stdout for item in top["items"])
    assert all(item["title"].endswith(f" thing {item['item_id'][1:]}") for item in top["items"][:1])


def test_what_was_read_of_a_history_is_said_with_how_much_there_is(finished: Path) -> None:
    ids = [f"i{item}" for item in range(10, 17)]

    long = invoke("recommend", finished, "--history", ",".join(["zz", *ids]), "--quiet")
    short = invoke("recommend", finished, "--history", "i10,i11", "--quiet")

    lines = long.stdout.partition("┏")[0].splitlines()
    assert lines[0] == "after the latest 5 of 7 items:"
    assert len(lines) == 1 + 5
    assert short.stdout.splitlines()[:3] == ["after:", "- blue thing 10", "- green thing 11"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_an_item_is_one_line_whose_title_loses_its_middle_where_it_is_narrow(
    finished: Path, width: int
) -> None:
    recommender = Recommender.from_pretrained(finished)
    titles = recommender.dataset.titles
    titles[:] = [f"{title}, {'very ' * 15}tall, number {n}" for n, title in enumerate(titles)]
    history = [item_name(item) for item in range(10, 13)]
    answer = recommender.recommend([history], k=4)[0]
    console = Console(width=width, record=True, file=io.StringIO())

    console.print(recommendation_table(recommender, history, answer))

    taken, _, listed = console.export_text().partition("┏")
    rows = [line for line in listed.splitlines() if line.startswith("│")]
    assert len(taken.splitlines()) == 1 + len(history)
    assert len(rows) == len(answer.items)
    for row, item in zip(rows, answer.items, strict=True):
        assert item.item_id in row
        assert item.title.rpartition(" ")[2] in row
        assert (item.title in row) == (width == 160)


def test_three_users_are_shown_in_80_columns_one_line_an_item(finished: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(summarize(RunFolder(finished), "report")[1])

    table = console.export_text().partition("three users")[2].partition("└")[0]
    cells = [line.split("│")[1:3] for line in table.splitlines() if line.startswith("│")]
    users = set(RunFolder(finished).dataset().user_ids)
    starts = [row for row, (left, _) in enumerate(cells) if left.strip() in users]
    assert len(starts) == 3
    for start, end in pairwise([*starts, len(cells)]):
        block = cells[start:end]
        lefts = [left.strip() for left, _ in block]
        came_next = lefts[-1].removeprefix("next: ")
        assert all(left.startswith("- ") for left in lefts[1:-1])
        shown = [right.strip() for _, right in block if right.strip()]
        assert [line[0] for line in shown] == list("12345")
        hits = [line[3:] for line in shown if line[1] == "*"]
        assert hits == [line[3:] for line in shown if line[3:] == came_next]


def test_where_there_are_fewer_items_than_asked_for_that_is_said(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "allow.txt").write_text("i6\ni7\n")
    ask = ("recommend", finished, "--allow", tmp_path / "allow.txt", "-k", "5")

    one = invoke(*ask, "--history", "i6")
    many = invoke(*ask, "--all-users", "--out", tmp_path / "many.csv")
    enough = invoke(*ask[:-1], "2", "--history", "i8")

    assert "5 items were asked for, but only 1 may be recommended here" in one.stderr
    assert "users got fewer than 5 items: no more may be recommended to them" in many.stderr
    assert "were asked for" not in enough.stderr
    assert answer(*ask, "--history", "i8,i9")["num_recommendable"] == 2


def test_what_strangers_wrote_is_shown_and_not_obeyed(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.csv").write_text("\x9b2Juser,[bold]item\n1,2\n")

    table = invoke("recommend", finished, "--history", "i8")
    sentence = refusal("prepare", tmp_path / "evil.csv", "--out", tmp_path / "run", "-q")

    assert "[/x]" in table.stdout
    assert "\N{REPLACEMENT CHARACTER}2Juser, [bold]item" in sentence


def test_unknown_items_are_passed_over_and_named(finished: Path) -> None:
    known = answer("recommend", finished, "--history", "i6,i7")

    mixed = answer("recommend", finished, "--history", "i6, zz\udcff ,i7")

    assert mixed["items"] == known["items"]
    assert mixed["unknown_items"] == ["zz?"]
    assert answer("recommend", finished, "--history", "[]")["is_fallback"]


def test_only_allowed_items_are_recommended(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "allow.txt").write_text("i6\r\n i7 \n\nno such item\n")
    ask = ("recommend", finished, "--history", "i6", "--allow", tmp_path / "allow.txt")

    unseen, everything = answer(*ask), answer(*ask, "--include-seen")

    assert [item["item_id"] for item in unseen["items"]] == ["i7"]
    assert {item["item_id"] for item in everything["items"]} == {"i6", "i7"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--history", "zz,yy"], "none of the 2 items in the history is in the catalog (zz, yy)"),
        (["--history", COMMA], "give ids that hold commas as a JSON list"),
        (["--history", '["i6"'], "begins like a JSON list but is not one"),
        (["--history", "[null]"], "must be a JSON list of item ids"),
        (["--history", "i6", "-k", "41"], "k must lie between 1 and the 40 items"),
        (["--history", "i6", "-k", "0"], "k must lie between 1 and the 40 items"),
        (
            ["--history", "i6", "--users", "u.csv"],
            "give one of --history, --user, --users and --all-users, not --history",
        ),
        (["--history", "i6", "--out", "o.jsonl"], "--out goes with --users"),
        (["--history", "i6", "--device", "tpu"], "there are cpu, cuda"),
        (["--history", "i6", "--allow", "empty.txt"], "empty.txt names no item"),
        (["--history", "i6", "--allow", "nothing.txt"], "nothing.txt is missing"),
        ([], "give one of --history, --user, --users and --all-users, not none"),
        (["--users", "u.csv"], "--users needs --out"),
        (["--all-users"], "--all-users needs --out"),
        (["--user", "u1", "--out", "o.csv"], "--out goes with --users or --all-users"),
        (["--user", "zz"], "the run has no user 'zz' among its 82 (such as 'u"),
        (["--all-users", "--out", "-", "--json"], "leave one of them out"),
        (["--users", "u.csv", "--out", "o.txt"], "ends in .parquet, .csv or .jsonl"),
        (["--users", "none.csv", "--out", "o.jsonl"], "none.csv does not exist"),
        (["--users", "empty.txt", "--out", "o.jsonl"], "empty.txt is empty"),
        (["--users", "bad.jsonl", "--out", "o.jsonl"], "names no user to recommend to; line 1"),
        (["--users", "u.jsonl", "--out", "u.jsonl"], "would replace the users"),
    ],
)
def test_a_request_that_cannot_be_answered_is_one_sentence(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("u.csv").write_text("user_id,history\na,i6\n")
    Path("u.jsonl").write_text('{"user_id": "a", "history": ["i6"]}\n')
    Path("bad.jsonl").write_text("nonsense\n")
    before = sorted(os.listdir())

    assert message in refusal("recommend", finished, *arguments)

    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("out", ["answers.jsonl", "answers.parquet", "answers.csv"])
def test_a_batch_answers_every_user(finished: Path, tmp_path: Path, kind: str, out: str) -> None:
    users = tmp_path / f"users.{kind}"
    histories: dict[str, list[Any] | None] = {
        "good": ["i6", "zz", "i7"],
        "unknown": ["zz"],
        "empty": [],
        "null": None,
    }
    if kind == "jsonl":
        lines = [json.dumps({"user_id": u, "history": h}) for u, h in histories.items()]
        users.write_text("\n".join([*lines, "nonsense", '{"user_id": "odd", "history": [1.5]}']))
    elif kind == "csv":
        users.write_text(
            "user_id,item_id,timestamp\ngood,i7,9\ngood,i6,5\nunknown,zz,1\nempty,,1\nnull,,\n"
            "odd,,1\n,i7,2\ngood,zz,7\n"
        )
    else:
        rows = {**histories, "odd": [None]}
        pl.DataFrame({"user_id": list(rows), "history": list(rows.values())}).write_parquet(users)

    counts = answer("recommend", finished, "--users", users, "--out", tmp_path / out, "-k", "3")

    read = {"jsonl": pl.read_ndjson, "parquet": pl.read_parquet, "csv": pl.read_csv}
    frame = read[out.partition(".")[2]](tmp_path / out)
    by_user = dict(frame.group_by("user_id").agg(pl.col("is_fallback").any()).iter_rows())
    alone = answer("recommend", finished, "--history", "i6,i7", "-k", "3")["items"]
    good = frame.filter(pl.col("user_id") == "good")
    assert by_user == {"good": False, "unknown": True, "empty": True, "null": True, "odd": True}
    assert good["item_id"].to_list() == [item["item_id"] for item in alone]
    assert good["rank"].to_list() == [1, 2, 3]
    assert set(frame.columns) == {
        *("user_id", "rank", "item_id", "title", "log_probability", "is_fallback")
    }
    assert counts == {
        "users": 5,
        "popular_instead": 4,
        "users_without_items": 0,
        "users_with_fewer_items": 0,
        "unknown_items_in_histories": 2,
        "out": str(tmp_path / out),
    }


def test_a_user_of_the_run_is_asked_for_by_name(finished: Path, shop: Path) -> None:
    """The history is all of the source's: validation and test items are past by now."""
    log = pl.read_csv(shop / "shop.csv", infer_schema=False, truncate_ragged_lines=True)
    log = log.with_columns(pl.col("timestamp").cast(pl.Int64, strict=False)).drop_nulls("timestamp")
    mine = log.filter(pl.col("user_id") == "u7").unique(["item_id", "timestamp"]).sort("timestamp")
    history = json.dumps(mine["item_id"].to_list())

    asked = answer("recommend", finished, "--user", "u7")

    assert len(mine) == 6
    assert asked == answer("recommend", finished, "--history", history)


def test_all_users_of_the_run_are_answered_alike(finished: Path, tmp_path: Path) -> None:
    ask = ("recommend", finished, "--all-users", "-k", "3")

    counts = answer(*ask, "--out", tmp_path / "answers.csv")
    printed = invoke(*ask, "--out", "-", "--quiet")

    rows = [json.loads(line) for line in printed.stdout.splitlines()]
    written = pl.read_csv(tmp_path / "answers.csv")
    assert counts["users"] == 82
    assert [row["item_id"] for row in rows] == written["item_id"].to_list()
    alone = answer("recommend", finished, "--user", "u7", "-k", "3")["items"]
    assert [row["item_id"] for row in rows if row["user_id"] == "u7"] == [
        item["item_id"] for item in alone
    ]


def test_a_batch_without_anything_to_recommend_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "allow.txt").write_text("i6\n")
    (tmp_path / "users.jsonl").write_text('{"user_id": "a", "history": ["i6"]}\n')
    files = ("--users", tmp_path / "users.jsonl", "--out", tmp_path / "out.parquet")

    sentence = refusal("recommend", finished, *files, "--allow", tmp_path / "allow.txt")

    assert "nothing is left to recommend" in sentence
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("stage", ["encode", "tokenize", "train", "evaluate", "report"])
def test_every_command_prints_one_json_document(run: Path, stage: str) -> None:
    assert answer(stage, run)


def test_a_copied_run_recommends_from_anywhere(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "mañana 日本 [x] [bold]" / "rün")

    moved = answer("recommend", copy, "--history", "i6")

    assert moved == answer("recommend", finished, "--history", "i6")
    assert answer("report", copy)
    assert "[bold]" in refusal("recommend", copy.parent / "none", "--history", "i6")


def test_an_estimate_counts_only_what_is_still_to_be_done(finished: Path) -> None:
    ask = ("run", "--out", finished, "--dry-run")

    nothing = answer(*ask)
    training = answer(*ask, "--set", "training.epochs=1")

    assert nothing["kept"] == ["prepare", "encode", "tokenize", "train", "evaluate"]
    assert nothing["total_seconds"] == 0
    assert training["kept"] == ["prepare", "encode", "tokenize"]
    # Not that the others take time: a step of so small a model may round to none.
    assert all(training["seconds"][stage] == 0 for stage in training["kept"])
    assert {"train", "evaluate"} <= training["seconds"].keys()
    assert "kept" in invoke(*ask).stdout


def test_a_stage_that_is_done_on_the_way_is_announced(run: Path) -> None:
    shutil.rmtree(run / "evaluation")

    result = invoke("evaluate", run, "--set", "training.epochs=1")

    assert "tokenize: unchanged, kept" in result.stderr
    assert "train: settings or data changed, doing it again" in result.stderr
    assert "evaluate: not done yet, doing it now" in result.stderr


def test_the_settings_of_a_run_are_printed_like_those_of_a_file(
    finished: Path, shop: Path, tmp_path: Path
) -> None:
    printed = invoke("settings", finished)

    assert printed.stdout == invoke("settings", shop / "tiny.toml").stdout
    assert "config.json is missing" in refusal("settings", tmp_path)


def test_a_run_ends_with_the_command_that_asks_it(finished: Path) -> None:
    shown = invoke("report", finished)

    *_, last = shown.stdout.splitlines()
    command, user_id = last.removeprefix("next:").rsplit(" --user ", 1)
    assert command.split() == ["bbqrec", "recommend", str(finished)]
    assert answer("recommend", finished, "--user", user_id)["items"]
    assert "│ - " in shown.stdout  # titles that stay apart where they are wrapped


def test_an_oracle_is_a_bound_and_no_rival(run: Path) -> None:
    path = run / "evaluation" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["test"]["models"]["oracle"] = metrics["test"]["models"]["popularity"]
    path.write_text(json.dumps(metrics))
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(summarize(RunFolder(run), "evaluate")[1])

    lines = console.export_text().splitlines()
    assert sum(line.startswith("bound: recall@10 .") for line in lines) == 2
    assert not any("│ oracle" in line for line in lines)


def test_the_health_of_the_codes_is_said_in_words(run: Path) -> None:
    path = run / "tokenizer" / "health.json"
    health = read_json(path)
    write_json(path, {**health, "information": {"text": 8.703e-14, "image": 0.25}})
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(summarize(RunFolder(run), "tokenize")[1])

    rows = [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert {"information on text 0", "information on image 0.25"} <= set(rows)
    assert any(row.startswith("codes used, level by level ") for row in rows)


def test_no_dictionary_is_logged(run: Path) -> None:
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    shutil.rmtree(run / "features")

    logged = " ".join(invoke("encode", run).stderr.split())

    assert "wide; items: images 36, unreadable 3, present 33, missing 7, zero 0" in logged


def test_the_version_is_printed() -> None:
    assert invoke("--version").stdout == f"bbqrec {bbqrec.__version__}\n"


COMMANDS = sorted(c.callback.__name__ for c in app.registered_commands if c.callback)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str) -> None:
    result = invoke(command, "--help")

    assert result.exit_code == 0
    _, _, text = " ".join(result.stdout.split()).partition("Usage: ")
    assert f" bbqrec {command}" in text


@pytest.mark.parametrize("best_epoch", [0, 1])
def test_whoever_stopped_too_early_is_told(finished: Path, tmp_path: Path, best_epoch: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name, value in (
        ("model.json", {**read_json(run / "recommender" / "model.json"), "best_epoch": best_epoch}),
        ("log.json", read_json(run / "recommender" / "log.json")[:1] * 2),
    ):
        write_json(run / "recommender" / name, value)
        manifest = read_json(run / "recommender" / "manifest.json")
        manifest["sha256"][name] = sha256_file(run / "recommender" / name)
        write_json(run / "recommender" / "manifest.json", manifest)

    for stage in ("train", "report"):
        _, shown = summarize(RunFolder(run), stage)
        with io.StringIO() as page:
            Console(file=page, width=100).print(shown)
            assert ("The last epoch was the best" in page.getvalue()) == (best_epoch == 1)
