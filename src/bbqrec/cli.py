"""The command line: parses, calls one function, prints."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.logging import RichHandler

from bbqrec.errors import BBQRecError, ConfigError, RequestError

app = typer.Typer(
    name="bbqrec",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Recommend by generating semantic IDs made from text, pictures and behavior.

    First look: `bbqrec demo`. Your own data: `bbqrec run --data shop.csv --out runs/shop`,
    then `bbqrec recommend runs/shop --history ID,ID`.""",
)
screen = Console(stderr=True)
# Before torch is imported: on a busy small machine two threads are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ConfigArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[CONFIG]", help="TOML settings, e.g. configs/beauty.toml."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Raw data: a file or folder in any known format (docs/data.md)."),
]
Out = Annotated[Path, typer.Option("--out", help="The run folder to create or continue.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a setting: training.epochs=5."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: CUDA if there is one.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Overrides the config's seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Estimate time, memory and disk; compute nothing.")
]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws another shop.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw a shop, learn its semantic IDs, train, evaluate and recommend: the whole path."""
    from bbqrec.pipeline import choose_device, run_demo

    with _session(quiet):
        run_demo(out, seed=seed, device=choose_device(device))
        _show(out, "report", as_json)


@app.command()
def run(
    config: ConfigArgument = None,
    data: Data = None,
    out: Out = Path("runs/latest"),
    overrides: Overrides = None,
    device: Device = "auto",
    seed: Seed = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """From raw data to recommendations; stages whose settings did not change are kept."""
    with _session(quiet):
        _run(out, "report", config, data, overrides, device, seed, dry_run, as_json)


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A data file or folder.")],
    out: Out,
    config: Annotated[Path | None, typer.Option("--config", help="TOML settings.")] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Import, clean, filter and split interactions; print statistics."""
    with _session(quiet):
        _run(out, "prepare", config, source, overrides, "cpu", None, False, as_json)


@app.command()
def encode(
    run: RunArgument,
    overrides: Overrides = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Turn texts and images into feature vectors."""
    with _session(quiet):
        _run(run, "encode", None, None, overrides, device, None, False, as_json)


@app.command()
def tokenize(
    run: RunArgument,
    overrides: Overrides = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Learn every item's semantic ID; print the health of the codes."""
    with _session(quiet):
        _run(run, "tokenize", None, None, overrides, device, None, False, as_json)


@app.command()
def train(
    run: RunArgument,
    overrides: Overrides = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the recommender on the run's semantic IDs."""
    with _session(quiet):
        _run(run, "train", None, None, overrides, device, None, False, as_json)


@app.command()
def evaluate(
    run: RunArgument,
    overrides: Overrides = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the recommender beside popularity and item-kNN; write metrics.json."""
    with _session(quiet):
        _run(run, "evaluate", None, None, overrides, device, None, False, as_json)


@app.command()
def report(run: RunArgument, quiet: Quiet = False, as_json: Json = False) -> None:
    """Write the run's report: one HTML file with pictures, codes, curves and metrics."""
    with _session(quiet):
        _run(run, "report", None, None, None, "auto", None, False, as_json)


@app.command()
def settings(config: ConfigArgument = None) -> None:
    """Print every setting with its default (or CONFIG's) value, as TOML to start from."""
    from bbqrec.config import as_toml, read_toml
    from bbqrec.pipeline import RunConfig

    with _session(quiet=True):
        values = read_toml(config) if config else {}
        sys.stdout.write(as_toml(RunConfig.parse(values, source=str(config))) + "\n")


@app.command()
def recommend(
    run: RunArgument,
    history: Annotated[
        str | None,
        typer.Option("--history", help='Item ids, oldest first: "ID,ID" or a JSON list.'),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option("--users", help="A file of users (Parquet, CSV, JSONL; docs/data.md)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where --users' answers go (.parquet, .jsonl).")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen/--include-seen", help="Leave out the history's items.")
    ] = True,
    allow: Annotated[
        Path | None,
        typer.Option("--allow", help="A text file of the allowed item ids, one a line."),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Recommend items for one history or for a file of users."""
    from bbqrec.pipeline import choose_device
    from bbqrec.recommend import Recommender
    from bbqrec.storage import read_text

    with _session(quiet):
        if (history is None) == (users is None):
            raise RequestError("give either --history or --users (a file), not both or none")
        if users is not None and out is None:
            raise RequestError("--users needs --out FILE.parquet or FILE.jsonl for the answers")
        recommender = Recommender.from_pretrained(run, device=choose_device(device))
        allowed = None if allow is None else [i for i in read_text(allow).splitlines() if i]
        options: dict[str, Any] = {"k": k, "exclude_seen": exclude_seen, "allowed": allowed}
        if users is not None and out is not None:
            _recommend_many(recommender, users, out, options)
        elif history is not None:
            _recommend_one(recommender, _parse_history(history), options, as_json)


def _parse_history(text: str) -> list[str]:
    if not text.lstrip().startswith("["):
        return [item_id.strip() for item_id in text.split(",") if item_id.strip()]
    try:
        ids = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"--history begins like a JSON list but is not one: {error}") from None
    if not all(isinstance(item_id, str) for item_id in ids):
        raise RequestError('--history must be a JSON list of strings, such as ["1193","661"]')
    return list(ids)


def _recommend_one(
    recommender: Any, history: list[str], options: dict[str, Any], as_json: bool
) -> None:
    from bbqrec.summary import recommendation_table

    answer = recommender.recommend([history], **options)[0]
    if history and answer.is_fallback:
        raise RequestError(
            f"none of the {len(history)} items in the history is in the catalog "
            f"({', '.join(history[:3])}); check how the ids are written"
        )
    if answer.unknown_items:
        logging.warning("not in the catalog, passed over: %s", ", ".join(answer.unknown_items))
    if as_json:
        _print_json(
            {
                "items": [item._asdict() for item in answer.items],
                "is_fallback": answer.is_fallback,
                "unknown_items": answer.unknown_items,
            }
        )
    else:
        Console().print(recommendation_table(recommender, history, answer))


def _recommend_many(recommender: Any, users: Path, out: Path, options: dict[str, Any]) -> None:
    from bbqrec.data import read_histories, write_recommendations

    user_ids, histories = read_histories(users)
    answers = recommender.recommend(histories, **options)
    rows = [
        {
            "user_id": user_id,
            "rank": rank,
            **item._asdict(),
            "is_fallback": answer.is_fallback,
        }
        for user_id, answer in zip(user_ids, answers, strict=True)
        for rank, item in enumerate(answer.items, start=1)
    ]
    write_recommendations(out, rows)
    num_fallbacks = sum(answer.is_fallback for answer in answers)
    screen.print(
        f"{len(user_ids)} users answered, {num_fallbacks} of them with popular items "
        f"(no known item in the history); written to {out}"
    )


def _run(
    out: Path,
    until: str,
    config_path: Path | None,
    data: Path | None,
    overrides: list[str] | None,
    device: str,
    seed: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    from bbqrec.bundle import RunFolder
    from bbqrec.config import apply_overrides, read_toml
    from bbqrec.pipeline import RunConfig, choose_device, run_stages
    from bbqrec.storage import read_json

    folder = RunFolder(out)
    if config_path is not None:
        values, name = read_toml(config_path), str(config_path)
    elif folder.config_path.is_file():
        values, name = read_json(folder.config_path), str(folder.config_path)
    else:
        values, name = {}, "the settings"
    values = apply_overrides(values, overrides or [])
    if seed is not None:
        values["seed"] = seed
    config = RunConfig.parse(values, source=name)
    if data is not None and not data.exists():
        raise ConfigError(f"there is no data at {data}; --data takes a file or a folder")
    if data is None and not folder.folder("prepare").is_dir():
        raise ConfigError(
            f"{out} holds no prepared data yet; say where the raw data are with --data, or run "
            "`bbqrec prepare SOURCE --out RUN` first"
        )
    if dry_run:
        from bbqrec.estimate import estimate

        values, table = estimate(folder, config, source=data, device=choose_device(device))
        _print_json(values) if as_json else Console().print(table)
        return
    run_stages(folder, config, source=data, device=choose_device(device), until=until)
    _show(out, until, as_json)


def _show(out: Path, stage: str, as_json: bool) -> None:
    from bbqrec.bundle import RunFolder
    from bbqrec.summary import summarize

    values, renderable = summarize(RunFolder(out), stage)
    if as_json:
        _print_json(values)
    else:
        Console().print(renderable)


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


@contextmanager
def _session(quiet: bool) -> Iterator[None]:
    """Logging and progress on stderr; a user's mistake is one sentence and an exit code."""
    from bbqrec.allocator import keep_heap
    from bbqrec.progress import shown_on

    keep_heap()
    handler = RichHandler(
        console=screen, show_path=False, show_level=False, markup=False, log_time_format="%X"
    )
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(message)s",
        handlers=[handler],
        force=True,
    )
    try:
        if quiet:
            yield
        else:
            with shown_on(screen):
                yield
    except BBQRecError as error:
        screen.print(f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        screen.print("stopped; the same command continues where it left off")
        raise typer.Exit(130) from None


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def main() -> None:
    """Entry point of the `bbqrec` command."""
    app()
