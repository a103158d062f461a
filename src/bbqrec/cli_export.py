"""The command that hands a finished run over to other programs."""

from pathlib import Path
from typing import Annotated

import typer

from bbqrec.cli_options import Json, Quiet, RunArgument, print_json
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

        summary = export_run(run, to, with_graphs=not only_ids, with_histories=histories)
        if as_json:
            print_json(summary.to_json())
            return
        say(f"model {summary.model_version} of {run} is in {to}; what is what: {to / 'README.md'}")
        if summary.agreement is not None:
            number, differences = summary.agreement
            worst = max(differences.values())
            say(f"  onnxruntime agrees with torch to {worst:.1g} on {number} histories")
