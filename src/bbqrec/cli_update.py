"""The commands of a run that lives: bring in what is new, and look at its versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bbqrec.cli_options import (
    Device,
    DryRun,
    Json,
    Overrides,
    Quiet,
    RunArgument,
    Track,
    print_json,
)
from bbqrec.errors import ConfigError, MissingDependencyError
from bbqrec.terminal import say, session

if TYPE_CHECKING:
    from bbqrec.data import Collected

commands = typer.Typer()


@commands.command()
def update(
    run: RunArgument,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="New interactions and items, or all of them again, in any format that `run` "
            "reads; what is known already is passed over.",
        ),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            metavar="PATH|URL",
            help="What `serve` collected: RUN/serving/events.sqlite3, or a postgresql:// URL. It "
            "is only read, and the server may go on.",
        ),
    ] = None,
    withdrawn: Annotated[
        Path | None,
        typer.Option(
            "--withdrawn",
            help="A text file of all item ids that may not be recommended any more, one a line; "
            "whoever is not in it any more is let back in.",
        ),
    ] = None,
    overrides: Overrides = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    track: Track = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Bring new interactions and items into a trained run, as its next version.

    From files: `bbqrec update runs/shop --data july.csv`

    What it would bring and cost: `bbqrec update runs/shop --data july.csv --dry-run`

    From a server: `bbqrec update runs/shop --events runs/shop/serving/events.sqlite3`

    Items keep their semantic IDs, new ones get free ones, and the recommender trains on for at
    most update.epochs epochs. The version before stays; both are measured on the same new cases.
    A server takes the new one over by `kill -HUP PID`.

    `--set` changes the sections update and evaluation and, in prepare, how --data is written:
    `-s update.epochs=10 -s prepare.columns.user_id=customer`
    """
    with session(quiet):
        from bbqrec.news import News, run_config
        from bbqrec.pipeline import choose_device
        from bbqrec.summary import update_summary
        from bbqrec.update import update_run

        if data is None and events is None and withdrawn is None:
            raise ConfigError("say what is new with --data, --events or --withdrawn")
        if data is not None and not data.exists():
            raise ConfigError(f"there is no data at {data}; --data takes a file or a folder")
        config, reading = run_config(run, overrides or [])
        news = News(source=data)
        if events is not None:
            news = news._replace(collected=_collected(events), events_place=events)
        if withdrawn is not None:
            news = news._replace(withdrawn=_listed(withdrawn))
        chosen = choose_device(device)
        if dry_run:
            from bbqrec.estimate import estimate_update

            values, renderable = estimate_update(
                run, news, config=config, reading=reading, device=chosen
            )
            print_json(values) if as_json else Console().print(renderable)
            return
        updated = update_run(run, news, config=config, reading=reading, device=chosen, track=track)
        values, renderable = update_summary(run, updated.found, updated.version)
        print_json(values) if as_json else Console().print(renderable, crop=False)


@commands.command()
def versions(
    run: RunArgument,
    use: Annotated[
        int | None,
        typer.Option("--use", min=0, help="Let commands and servers use this version from now on."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show where a run comes from: its versions, what each brought, and what it was worth.

    For example: `bbqrec versions runs/shop`

    Back to the first: `bbqrec versions runs/shop --use 0`, then `kill -HUP PID` for a server
    """
    with session(quiet=True):
        from bbqrec.bundle import RunFolder
        from bbqrec.lineage import use_version
        from bbqrec.summary import lineage_summary

        if use is not None:
            with RunFolder(run, 0).locked():
                use_version(run, use)
            say(f"version {use} of {run} is used from now on")
        values, renderable = lineage_summary(run)
        print_json(values) if as_json else Console().print(renderable, crop=False)


def _collected(place: str) -> "Collected":
    try:
        from bbqrec.serving.store import read_collected
    except ImportError as error:
        raise MissingDependencyError(
            f"reading a server's events needs {error.name}: pip install 'bbqrec[serve]'"
        ) from None
    return read_collected(place)


def _listed(path: Path) -> list[str]:
    from bbqrec.storage import read_text

    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
