"""Bad input ends in one sentence or is counted, and loses nobody a file."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from command_line import NUM_ITEMS, answer, invoke, refusal, small_csv


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
            r"has no column user_id, no item_id, no timestamp \(or position\); it has: a, b, c; "
            ".*columns.user_id=NAME .*columns.item_id=NAME .*columns.timestamp=NAME",
        ),
        (
            "user_id,item_id,when,picture\nu,i,1,p.png\n",
            ("prepare.columns.timestamp=whn", "prepare.columns.user_id=who"),
            "no column 'whn' to use as timestamp, no 'who' to use as user_id; it has: user_id",
        ),
        (
            "user_id,item_id,ts,picture\nu,i,1,p.png\n",
            ("prepare.columns.image=pictre",),
            "has no column 'pictre' to use as image; it describes items by: item_id, picture",
        ),
        ("", (), "is empty; give a file with a header line"),
        ("user_id,item_id,timestamp\n", (), "has no rows"),
        ("user_id,item_id,timestamp\n,i,1\nu,i,2\n", (), "line 2: user_id is missing"),
        ("user_id,item_id,timestamp\nu,i,soon\n", (), "no timestamp can be read.*'soon'"),
        ("user_id,item_id,timestamp\nu,é,1\n".encode("latin-1"), (), "not utf-8.*encoding=latin-1"),
        ("user_id,item_id,timestamp\nu,i,1\n".encode("utf-16"), (), "prepare.encoding=utf-16"),
        ("user_id,item_id,timestamp\nu,i,1\n", ("prepare.min_user=5",), "lower prepare.min_user"),
        ("a,b\0c\n1,2,3\n", (), "no text file: its first line holds zero bytes; save"),
        ("a,b\x1bc\n1,2,3\n", (), "no text file: line 1 holds bytes that text never does; save"),
        (
            ",".join(f"column{'x' * 99}{i}" for i in range(99)) + "\n1\n",
            (),
            r"columnx{54}, .* and 69 more; name what",
        ),
        ("", ("prepare.min_usr=5",), r"min_usr: there is no such setting \(did you mean min_user"),
        (
            "",
            ("epochs=3",),
            r"epochs: .*did you mean tokenizer.epochs, training.epochs or update.epochs\?\); known",
        ),
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


def test_a_preparation_says_which_columns_became_what_and_warns_once(
    shop: Path, tmp_path: Path
) -> None:
    table = (shop / "shop.csv").read_text().replace("user_id,item_id,timestamp,title,image", "WHO")
    source = tmp_path / "shop.csv"
    source.write_text(table.replace("WHO", "customer,sku,when,name,photo"))
    names = ("user_id=customer", "item_id=sku", "timestamp=when")
    options = [word for name in names for word in ("-s", f"prepare.columns.{name}")]

    result = invoke("prepare", source, "--out", tmp_path / "run", *options)

    said = " ".join(result.stderr.split())
    rows = [" ".join(line.replace("│", " ").split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0, result.stderr
    assert {"user id customer", "item id sku", "timestamp when", "title name"} <= set(rows)
    assert {"text name, photo", "image none"} <= set(rows)
    assert said.count("'photo' is read as text, but looks like paths of images") == 1
    assert "--set prepare.columns.image=photo" in said
    assert "photo' is read" not in result.stdout


def test_what_was_read_adds_up_to_what_was_kept_and_left_out(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    result = invoke("prepare", shop / "shop.csv", "--out", out, "-s", "prepare.min_user=3")

    rows = dict(re.findall(r"│ (.+?) +│ +(-?[\d,]+) │", result.stdout))
    left_out = [int(number) for number in rows.values() if number.startswith("-")]
    assert int(rows["read"]) == 490  # lines under the header
    assert rows["exact duplicates"] == "-5"
    assert rows["not a row"] == "-1"
    assert int(rows["read"]) + sum(left_out) == int(rows["kept"])
    parts = [int(rows[f"  to {what} on"]) for what in ("train", "validate", "test")]
    assert sum(parts) == int(rows["kept"])
    said = "".join(result.stderr.split())
    rejected = out / "data" / "rejected.jsonl"
    assert f"2unusablelinesarein{rejected},eachwiththereason" in said
    assert len(rejected.read_text().splitlines()) == 2
    assert "490interactionsread,1notarow,1without" in said
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_settings_that_were_refused_are_not_kept(tmp_path: Path) -> None:
    source, out = small_csv(tmp_path / "shop.csv"), tmp_path / "run"
    answer("prepare", source, "--out", out)

    refusal("prepare", source, "--out", out, "--quiet", "--set", "prepare.min_user=99")

    assert answer("prepare", source, "--out", out)["statistics"]["users"] == 9


@pytest.mark.parametrize(
    ("num_items", "num_events", "message"),
    [
        (30, 2, "no validation case"),
        (9, 6, "hold 9 items, but training is validated on lists of 10; bring more data"),
        (15, 6, "list fewer: --set 'evaluation.metrics=["),
    ],
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
