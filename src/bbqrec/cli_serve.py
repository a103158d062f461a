"""The command that puts a finished run behind HTTP."""

from typing import Annotated

import typer

from bbqrec.cli_options import Quiet, RunArgument
from bbqrec.errors import MissingDependencyError
from bbqrec.terminal import say, session

commands = typer.Typer()


@commands.command()
def serve(
    run: RunArgument,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Who may connect: 127.0.0.1 this machine only, 0.0.0.0 all (see below)."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes a free one and says which.")
    ] = 8000,
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            metavar="PATH|URL",
            help="Where users' events and posted items are kept: an SQLite file, or a "
            "postgresql:// URL. By default RUN/serving/events.sqlite3.",
        ),
    ] = None,
    max_beam: Annotated[
        int, typer.Option("--max-beam", min=1, help="The widest beam a request may ask for.")
    ] = 100,
    max_waiting: Annotated[
        int,
        typer.Option(
            "--max-waiting",
            min=1,
            help="Histories that may wait for the model; further requests get 503 at once.",
        ),
    ] = 256,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            help="A name under which the server is reached (repeatable), * for any; by default "
            "localhost.",
        ),
    ] = None,
    kserve: Annotated[
        bool, typer.Option("--kserve", help="Also speak the Open Inference Protocol under /v2.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Answer recommendation requests over HTTP until stopped with Ctrl-C.

    Start: `bbqrec serve runs/shop`, then open http://127.0.0.1:8000

    Ask: `curl localhost:8000/v1/recommend -H 'content-type: application/json' -d
    '{"histories": [["A17", "B42"]], "k": 5}'`

    A run trained again in the same folder is taken over without a pause by `kill -HUP PID`, or by
    POST /v1/admin/reload with the token in BBQREC_ADMIN_TOKEN; one that cannot answer is refused
    and the old one keeps serving.

    Other machines are let in by `--host 0.0.0.0 --allow-host NAME` and must send the token in
    BBQREC_TOKEN as `Authorization: Bearer ...`. docs/serving.md says what is stored where.
    """
    with session(quiet):
        try:
            import fastapi  # noqa: F401
            import fastapi_offline  # noqa: F401
            import prometheus_client  # noqa: F401
            import sqlalchemy  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(
                f"serving needs {error.name}: pip install 'bbqrec[serve]'"
            ) from None
        from bbqrec import serving

        token, admin_token = serving.tokens()
        config = serving.ServeConfig(
            max_beam=max_beam,
            max_waiting=max_waiting,
            kserve=kserve,
            token=token,
            admin_token=admin_token,
            hosts=(*serving.ServeConfig().hosts, host, *(allow_host or ())),
        )
        serving.serve(run, host=host, port=port, events=events, config=config, say=say)
