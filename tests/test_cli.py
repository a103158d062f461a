"""The command line: bad input ends in a sentence or is counted, good input in an answer."""

import csv
import errno
import itertools
import json
import logging
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result
from PIL import Image
from tiny_run import tiny_config
from typer.testing import CliRunner

import bbqrec.pipeline
from bbqrec.bundle import RunFolder
from bbqrec.cli import app
from bbqrec.config import as_toml
from bbqrec.errors import StorageError
from bbqrec.storage import write_json

NUM_ITEMS = 40
COMMA = "i,5"  # an item id


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: str | Path) -> Any:
    """What stdout holds when asked for JSON: exactly one document."""
    result = invoke(*arguments, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refusal(*arguments: str | Path) -> str:
    """The one sentence of a refused command."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def item_name(item: int) -> str:
    return COMMA if item == 5 else f"i{item}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shop.csv, pictures beside it, and nearly everything wrong that need not end a job."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "pics").mkdir()
    draw = random.Random(0)
    for item in range(NUM_ITEMS):
        color = tuple(draw.randrange(256) for _ in range(3))
        picture = Image.new("RGB", (24, 24), color)
        picture.paste("white", (0, 0, draw.randrange(24), 12))
        picture.save(folder / "pics" / f"p{item}.png")
    whole = (folder / "pics" / "p0.png").read_bytes()
    (folder / "pics" / "p0.png").write_bytes(whole[:60])
    (folder / "pics" / "p1.png").write_text("<html>404</html>")
    (folder / "pics" / "p2.png").unlink()
    Image.new("1", (20_000, 20_000)).save(folder / "pics" / "p3.png")  # decodes to 400 megapixels
    (folder / "pics" / "p4.png").write_bytes(b"")
    (folder / "secret.png").write_bytes(whole)

    def row(user: int, item: int) -> list[Any]:
        path = {6: "https://example.org/p6.png", 7: "../../secret.png"}.get(
            item, f"pics/p{item}.png"
        )
        title = (
            ""
            if item == 2
            else f"{'[/x]' if item == 8 else ''}{('red', 'blue', 'green')[item % 3]} thing {item}"
        )
        return [f"u{user}", item_name(item), 1_600_000_000 + draw.randrange(10**6), title, path]

    rows = [row(user, draw.randrange(NUM_ITEMS)) for user in range(80) for _ in range(6)]
    rows += [row(100, 8), row(101, 9), row(101, 10)]  # too short for validation and test
    draw.shuffle(rows)
    with (folder / "shop.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp", "title", "image"])
        writer.writerows([*rows, *rows[:5]])
        file.write("u1,i9,yesterday,red thing 9,pics/p9.png\n")
        file.write("u1,i9\n")
    (folder / "tiny.toml").write_text(as_toml(tiny_config()))
    return folder


@pytest.fixture(scope="module")
def finished(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `shop`, made by one command; its JSON is kept beside it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    metrics = answer("run", shop / "tiny.toml", "--data", shop / "shop.csv", "--out", run)
    write_json(run.parent / "printed.json", metrics)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def small_csv(path: Path, *, header: str = "user_id,item_id,timestamp") -> Path:
    rows = [
        f"u{user},i{(3 * user + t) % 9},{1_600_000_000 + t}" for user in range(9) for t in (2, 1)
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_one_csv_with_pictures_becomes_a_run_in_one_command(shop: Path, finished: Path) -> None:
    info = json.loads((finished / "data" / "dataset.json").read_text())
    rejected = [
        json.loads(line) for line in (finished / "data" / "rejected.jsonl").read_text().splitlines()
    ]
    images = json.loads((finished / "features" / "image.json").read_text())["statistics"]
    num_lines = len((shop / "shop.csv").read_text().splitlines())

    assert json.loads((finished.parent / "printed.json").read_text())["test"]["num_cases"] == 80
    assert (finished / "report.html").is_file()
    assert info["counts"]["interactions"]["exact_duplicates"] == 5
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (num_lines, "2 fields where the header has 5"),
        (num_lines - 1, "the time cannot be read"),
    ]
    assert info["counts"]["images"] == {
        "items_with_image": NUM_ITEMS - 4,
        "image_rows_of_unknown_items": 0,
        "images_missing": 1,
        "images_refused": 1,
        "images_too_large": 0,
        "images_empty": 1,
        "images_that_are_addresses": 1,
    }
    assert images["unreadable"] == 3
    assert images["present"] == NUM_ITEMS - 4 - 3
    assert info["counts"]["items"]["items_without_text_and_image"] == 1


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (
            "a,b,c\n1,2,3\n",
            (),
            "has no column user_id; it has: a, b, c; .*prepare.columns.user_id=",
        ),
        ("", (), "is empty; give a file with a header line"),
        ("user_id,item_id,timestamp\n", (), "has no rows"),
        ("user_id,item_id,timestamp\n,i,1\nu,i,2\n", (), "line 2: user_id is missing"),
        ("user_id,item_id,timestamp\nu,i,soon\n", (), "no timestamp can be read.*'soon'"),
        ("user_id,item_id,timestamp\nu,é,1\n".encode("latin-1"), (), "not utf-8.*encoding=latin-1"),
        ("user_id,item_id,timestamp\nu,i,1\n".encode("utf-16"), (), "prepare.encoding=utf-16"),
        ("user_id,item_id,timestamp\nu,i,1\n", ("prepare.min_user=5",), "lower prepare.min_user"),
        ("", ("prepare.min_usr=5",), "prepare.min_usr: there is no such setting.*min_user"),
        ("", ("prepare.min_user=0",), "prepare.min_user: .*greater than or equal to 1"),
        ("", ("prepare.min_user",), "must look like section.key=value"),
        ("", (f"seed={2**64}",), "64-bit"),
    ],
)
def test_a_bad_source_or_setting_ends_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, content: str | bytes, settings: tuple[str, ...], message: str
) -> None:
    source = tmp_path / "shop.csv"
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    options = [word for setting in settings for word in ("--set", setting)]

    sentence = refusal("prepare", source, "--out", tmp_path / "run", "--quiet", *options)

    assert pytest.RaisesExc(ValueError, match=message).matches(ValueError(sentence)), sentence
    assert os.listdir(tmp_path) == ["shop.csv"]


def test_settings_that_were_refused_are_not_kept(tmp_path: Path) -> None:
    source, out = small_csv(tmp_path / "shop.csv"), tmp_path / "run"
    answer("prepare", source, "--out", out)

    refusal("prepare", source, "--out", out, "--quiet", "--set", "prepare.min_user=99")

    assert answer("prepare", source, "--out", out)["statistics"]["users"] == 9


@pytest.mark.parametrize(
    ("num_items", "num_events", "message"), [(30, 2, "no validation case"), (9, 6, "hold 9 items")]
)
def test_too_few_data_to_evaluate_are_refused_before_training(
    tmp_path: Path, shop: Path, num_items: int, num_events: int, message: str
) -> None:
    rows = [
        f"u{user},i{(user + t) % num_items},{t},thing {(user + t) % num_items}"
        for user in range(30)
        for t in range(num_events)
    ]
    source = tmp_path / "shop.csv"
    source.write_text("\n".join(["user_id,item_id,timestamp,title", *rows]))

    result = invoke("run", shop / "tiny.toml", "--data", source, "--out", tmp_path / "run", "-q")

    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "tokenizer").exists()


@pytest.mark.parametrize("source", ["/dev/null", "missing.csv", "fifo.csv"])
def test_a_source_that_is_no_file_is_refused(tmp_path: Path, source: str) -> None:
    os.mkfifo(tmp_path / "fifo.csv")

    sentence = refusal("prepare", tmp_path / source, "--out", tmp_path / "run", "-q")

    assert source in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["file", "file/run", "/proc/run", "x" * 300])
def test_an_out_that_cannot_be_a_folder_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")

    sentence = refusal("prepare", small_csv(tmp_path / "a.csv"), "--out", tmp_path / out, "-q")

    assert out in sentence
    assert (tmp_path / "file").read_text() == "mine"


def test_folders_of_somebody_else_are_never_replaced(tmp_path: Path) -> None:
    for name in ("data", "shop"):
        (tmp_path / name).mkdir()
        small_csv(tmp_path / name / "interactions.csv")

    for command in (["prepare", tmp_path / "data", "--out", tmp_path, "-q"], ["demo", "-q"]):
        out = [] if "--out" in command else ["--out", tmp_path]
        assert "would be replaced; give another folder as --out" in refusal(*command, *out)

    assert (tmp_path / "data" / "interactions.csv").is_file()
    assert (tmp_path / "shop" / "interactions.csv").is_file()


def test_a_run_inside_its_own_source_is_not_read_as_data(tmp_path: Path) -> None:
    small_csv(tmp_path / "interactions.csv")
    for out in (tmp_path, tmp_path / "run"):
        arguments = ("prepare", tmp_path, "--out", out)
        invoke(*arguments)

        again = invoke(*arguments)

        assert again.exit_code == 0
        assert "prepare: unchanged, kept" in again.stderr


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


def test_what_strangers_wrote_is_shown_and_not_obeyed(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.csv").write_text("\x1b[2Juser,[bold]item\n1,2\n")

    table = invoke("recommend", finished, "--history", "i8")
    sentence = refusal("prepare", tmp_path / "evil.csv", "--out", tmp_path / "run", "-q")

    assert "[/x]" in table.stdout
    assert "\N{REPLACEMENT CHARACTER}[2Juser, [bold]item" in sentence


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
        (["--history", "i6", "--users", "u.csv"], "give either --history or --users"),
        (["--history", "i6", "--out", "o.jsonl"], "--out goes with --users"),
        (["--history", "i6", "--device", "tpu"], "there are cpu, cuda"),
        (["--history", "i6", "--allow", "empty.txt"], "empty.txt names no item"),
        (["--history", "i6", "--allow", "nothing.txt"], "nothing.txt is missing"),
        (["--users", "u.csv"], "--users needs --out"),
        (["--users", "u.csv", "--out", "o.csv"], "ends in .parquet or .jsonl"),
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
@pytest.mark.parametrize("out", ["answers.jsonl", "answers.parquet"])
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

    frame = pl.read_ndjson(tmp_path / out) if out.endswith("l") else pl.read_parquet(tmp_path / out)
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
        "unknown_items_in_histories": 2,
        "out": str(tmp_path / out),
    }


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


@pytest.mark.parametrize(
    ("name", "content", "command", "message"),
    [
        ("config.json", b"\xff\x00", ["evaluate"], "config.json is not valid JSON.*run CONFIG"),
        ("config.json", b"[1]", ["train", "-s", "seed=3"], "does not hold the settings"),
        ("config.json", b'{"sed": 1}', ["report"], "config.json: sed: there is no such setting"),
        ("data/manifest.json", b"{}", ["report", "-q"], "manifest.json is not a manifest"),
        ("data/items.parquet", b"PAR1", ["encode", "-q"], "items.parquet is damaged"),
        (
            "recommender/manifest.json",
            b'{"format_version": 1}',
            ["recommend", "--history", "i6"],
            "is not a manifest of format version 1",
        ),
        ("recommender/log.json", b"", ["recommend", "--history", "i6"], "log.json is damaged"),
    ],
)
def test_a_garbled_run_is_refused_by_name(
    run: Path, name: str, content: bytes, command: list[str], message: str
) -> None:
    (run / name).write_bytes(content)

    sentence = refusal(command[0], run, *command[1:])

    assert pytest.RaisesExc(ValueError, match=message).matches(ValueError(sentence)), sentence


@pytest.mark.parametrize(
    "name",
    ["features/text.json", "features/manifest.json", "tokenizer/health.json", "metrics.json"],
)
def test_what_can_be_made_again_is_made_again(run: Path, name: str) -> None:
    before = json.loads((run / name).read_text())
    (run / name).write_bytes(b"\xff\x00")

    answer("evaluate", run)

    repaired = json.loads((run / name).read_text())
    assert repaired.keys() == before.keys()


def test_the_run_of_other_semantic_ids_is_refused(run: Path, shop: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    first = ("prepare", shop / "shop.csv", "--out", other, "--config", shop / "tiny.toml")
    answer(*first, "-s", "seed=1")
    answer("tokenize", other)

    shutil.rmtree(run / "tokenizer")
    shutil.copytree(other / "tokenizer", run / "tokenizer")

    assert "holds other semantic IDs" in refusal("recommend", run, "--history", "i6")


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_run_as_it_was(run: Path, shop: Path, tmp_path: Path) -> None:
    before = answer("recommend", run, "--history", "i6")
    again = ("tokenize", run, "--set", "tokenizer.epochs=3", "--quiet")
    fresh = ("prepare", shop / "shop.csv", "--out", tmp_path / "new", "--quiet")

    for num_bytes, arguments in ((9_000, again), (10, fresh), (2_000, fresh)):
        with files_of_at_most(num_bytes):
            sentence = refusal(*arguments)
        assert "File too large" in sentence
        assert "nothing was left half-written" in sentence

    assert not (tmp_path / "new").exists()
    assert not list(run.rglob("*.partial"))
    assert answer("recommend", run, "--history", "i6") == before
    assert answer(*again)  # goes on once there is space


def test_a_write_that_fails_anywhere_leaves_the_old_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th call to the operating system fails, for every n there is."""
    run = RunFolder(tmp_path)

    def write(value: int) -> None:
        with run.write_stage("train", str(value)) as directory:
            write_json(directory / "log.json", value)
            write_json(directory / "model.json", [value] * 100)

    def failing(call: int) -> Callable[[Any], Any]:
        calls = itertools.count(1)

        def wrap(function: Any) -> Any:
            def wrapped(*arguments: Any, **options: Any) -> Any:
                if next(calls) == call:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return function(*arguments, **options)

            return wrapped

        return wrap

    places = [(Path, name) for name in ("open", "mkdir", "rename", "replace")]
    for call in itertools.count(1):
        write(1)
        with monkeypatch.context() as patch:
            wrap = failing(call)
            for place, name in (*places, (os, "fsync")):
                patch.setattr(place, name, wrap(getattr(place, name)))
            try:
                write(2)
                break  # fewer than `call` calls are made
            except StorageError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
        value = json.loads((run.folder("train") / "log.json").read_text())
        # The new one is in place only if no more than its last fsync failed.
        assert run.verify("train")["key"] == str(value)
        assert os.listdir(tmp_path) == ["recommender"]

    assert call > 15
    assert run.verify("train")["key"] == "2"


def test_a_refused_read_is_one_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/vault/shop.csv")

    monkeypatch.setattr(bbqrec.pipeline, "_source_fingerprint", refuse)

    sentence = refusal("prepare", run / "config.json", "--out", run, "-q")

    assert "/vault/shop.csv: Permission denied" in sentence


def test_a_mistake_of_ours_keeps_its_traceback(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bbqrec.pipeline, "run_stages", lambda *_, **__: 1 // 0)

    result = invoke("train", run)

    assert isinstance(result.exception, ZeroDivisionError)
    assert "please report it" in result.stderr


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_ctrl_c_leaves_a_run_that_continues(
    run: Path, monkeypatch: pytest.MonkeyPatch, is_swallowed: bool
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if is_swallowed:
                raise RuntimeError("a library was stopped midway") from None
            raise

    shutil.rmtree(run / "evaluation")
    with monkeypatch.context() as patch:
        patch.setattr(bbqrec.pipeline, "evaluate", interrupt)
        stopped = invoke("evaluate", run)

    assert stopped.exit_code == 130
    assert "the same command continues" in stopped.stderr
    assert not (run / "evaluation").exists()
    assert "train: unchanged, kept" in invoke("evaluate", run).stderr


COMMANDS = sorted(c.callback.__name__ for c in app.registered_commands if c.callback)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str) -> None:
    result = invoke(command, "--help")

    assert result.exit_code == 0
    _, _, text = " ".join(result.stdout.split()).partition("Usage: ")
    assert f" bbqrec {command}" in text
