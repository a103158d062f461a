"""The command that hands a finished run over to other programs."""

from pathlib import Path
from typing import Annotated

import typer

from bbqrec.cli_options import Json, Quiet, RunArgument, print_json
from bbqrec.errors import MissingDependencyError
from bbqrec.terminal import say, session

commands = typer.Typer()


@commands.command()
def export(
    run: RunArgument,
    to: Annotated[
        Path, typer.Option("--to", help="The folder to write; an older export is replaced.")
    ],
    only_ids: Annotated[
        bool, typer.Option("--only-ids", help="Semantic IDs alone; needs no further library.")
    ] = False,
    histories: Annotated[
        bool,
        typer.Option(
            "--histories", help="Also hand over what users did, in LC-Rec's form; mind whose it is."
        ),
    ] = False,
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            metavar="PATH|URL",
            help="What `serve` keeps: users who asked it to be forgotten are left out of "
            "--histories. By default RUN/serving/events.sqlite3 where there is one.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a run as ONNX and torch.export graphs, vectors and semantic IDs, checked and explained.

    For example: `bbqrec export runs/shop --to shop_export`, then read shop_export/README.md

    Every graph is compared with the model on histories of the run before the folder appears. To
    hand over the run to bbqrec elsewhere, see `Recommender.save_pretrained` in docs/export.md.
    """
    with session(quiet):
        from bbqrec.export import export_run

        forgotten = _forgotten(run, events) if histories else frozenset()
        summary = export_run(
            run,
            to,
            with_graphs=not only_ids,
            with_histories=histories,
            forgotten=forgotten,
        )
        if as_json:
            print_json(summary.to_json())
            return
        say(f"model {summary.model_version} of {run} is in {to}; what is what: {to / 'README.md'}")
        if summary.agreement is not None:
            number, differences = summary.agreement
            worst = max(differences.values())
            say(f"  onnxruntime agrees with torch to {worst:.1g} on {number} histories")


def _forgotten(run: Path, events: str | None) -> frozenset[str]:
    if events is None:
        place = run / "serving" / "events.sqlite3"
        if not place.exists():
            return frozenset()
        events = str(place)
    try:
        from bbqrec.serving.store import read_forgotten
    except ImportError as error:
        raise MissingDependencyError(
            f"whom {events} wants forgotten is read with {error.name}: pip install 'bbqrec[serve]'"
        ) from None
    return read_forgotten(events)
