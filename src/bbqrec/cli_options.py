"""Options that commands share, and how a result becomes JSON."""

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from bbqrec.errors import ConfigError
from bbqrec.presets import Preset

ConfigArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[CONFIG]", help="TOML settings; without it, the run folder's or the defaults."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Raw data: a table of user_id, item_id, timestamp (and title, image, ...) or a "
        "folder; docs/data.md lists all formats. Not needed again to continue a run.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The run folder to create or continue.")]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder that `run` or `prepare` made.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Change a setting (repeatable): training.epochs=5."
    ),
]
PresetOption = Annotated[
    Preset | None,
    typer.Option(
        "--preset",
        help="Start from fast (the default: a small network per level writes semantic IDs), "
        "one_pass (a Transformer decoder writes them), generate (items are found in the tree of "
        "semantic IDs alone) or paper (encoder-decoder over codes alone).",
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto (CUDA if there is one).")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Overrides the config's seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and the result.")]
Json = Annotated[bool, typer.Option("--json", help="The result as one JSON document on stdout.")]
Track = Annotated[
    str,
    typer.Option(
        "--track",
        help="Where training's curves go beside the report, in RUN/tracking: tensorboard, mlflow, "
        "wandb (offline), none, or auto (TensorBoard if installed).",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Estimate time, memory and disk; compute nothing.")
]


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a TOML file that was named as an argument."""
    from bbqrec.config import read_toml

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(
            f"{path} {what}, but settings are read from a TOML file; `bbqrec settings > my.toml` "
            "writes one to start from, and a run that is continued by --out RUN has its own"
        )
    return read_toml(path)


def print_json(value: Any) -> None:
    """One indented JSON document on stdout."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
