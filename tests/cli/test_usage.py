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


def test_without_a_command_the_help_is_printed() -> None:
    result = invoke()

    assert result.exit_code == 2
    assert "First look: bbqrec demo" in " ".join(result.stdout.split())
    assert result.stderr == ""
