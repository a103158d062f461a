"""The command line in this process, and what its tests have in common."""

import json
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from bbqrec.cli import app

NUM_ITEMS = 40
COMMA = "i,5"  # an item id


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


def small_csv(path: Path, *, header: str = "user_id,item_id,timestamp") -> Path:
    rows = [
        f"u{user},i{(3 * user + t) % 9},{1_600_000_000 + t}" for user in range(9) for t in (2, 1)
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path
