"""Mistakes in how a command is written are one sentence, like all others."""

from pathlib import Path

import pytest
from command_line import invoke, refusal


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ("run", "--preset", "nope"),
            "'nope' is not one of 'fast', 'one_pass', 'generate', 'paper'",
        ),
        (("run", "--nope"), "no such option: --nope; `"),
        (("recommend",), "missing argument 'RUN'; `"),
        (("nope",), "no such command 'nope'; `"),
        (("recomend", "x"), "no such command 'recomend' (did you mean 'recommend'?); `"),
        (("run", "--prest", "x"), "no such option: --prest (did you mean --preset, --set?); `"),
        (("serve", "runs/demo", "--port", "x"), "invalid value for '--port': "),
        (("demo", "--seed", "-1"), "'--seed': Input should be greater than or equal to 0"),
        (("recommend", "runs/demo", "-k"), "option '-k' requires an argument"),
    ],
)
def test_a_command_that_is_none_is_refused_in_a_sentence(
    command: tuple[str, ...], message: str
) -> None:
    sentence = refusal(*command)

    assert message in sentence
    assert "--help` shows what there is" in sentence


@pytest.mark.parametrize("command", ["settings", "run", "benchmark"])
@pytest.mark.parametrize(("name", "what"), [("nope", "does not exist"), (".", "is a folder")])
def test_settings_that_are_no_file_are_refused_with_the_way_to_get_some(
    tmp_path: Path, command: str, name: str, what: str
) -> None:
    path = tmp_path / name

    if (command, name) == ("settings", "."):
        assert "config.json is missing" in refusal(command, path)
        return
    sentence = refusal(command, path)

    assert f"{path} {what}" in sentence
    assert "`bbqrec settings > my.toml` writes one" in sentence


@pytest.mark.parametrize("command", ["encode", "train", "evaluate", "report", "recommend"])
def test_what_is_no_run_is_told_from_one_without_data(tmp_path: Path, command: str) -> None:
    (tmp_path / "shop.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    more = ("--history", "a") if command == "recommend" else ()

    none = refusal(command, tmp_path / "none", *more)
    file = refusal(command, tmp_path / "shop.csv", *more)
    empty = refusal(command, tmp_path / "empty", *more)

    assert none == f"error: there is no run folder at {tmp_path / 'none'}; `bbqrec run` makes one\n"
    assert f"{tmp_path / 'shop.csv'} is a file, not a run folder; " in file
    assert "--data" not in empty
    assert not (tmp_path / "none").exists()


def test_a_run_that_begins_is_told_to_name_its_data(tmp_path: Path) -> None:
    assert "say where the raw data are with --data, or run" in refusal("run", "--out", tmp_path)


def test_without_a_command_the_help_is_printed() -> None:
    result = invoke()

    assert result.exit_code == 2
    assert "First look: bbqrec demo" in " ".join(result.stdout.split())
    assert result.stderr == ""
