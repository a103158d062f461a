"""The command line: parses, calls one function, prints."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bbqrec import (
    __version__,
    cli_benchmark,
    cli_explain,
    cli_export,
    cli_recommend,
    cli_serve,
    cli_update,
)
from bbqrec.cli_options import (
    ConfigArgument,
    Data,
    Device,
    DryRun,
    Json,
    Out,
    Overrides,
    PresetOption,
    Quiet,
    RunArgument,
    Seed,
    Track,
    print_json,
    read_settings,
)
from bbqrec.errors import ConfigError, CorruptArtifactError
from bbqrec.presets import Preset, lay_preset
from bbqrec.terminal import Commands, say, session

app = typer.Typer(
    name="bbqrec",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Recommend by generating semantic IDs made from text, pictures and behavior.

    First look: `bbqrec demo`

    Your own data: `bbqrec run --data shop.csv --out runs/shop`

    Then ask: `bbqrec recommend runs/shop --history A17,B42 -k 5`

    A run goes through the stages prepare, encode, tokenize, train, evaluate and report. Finished
    stages are kept: the same command continues where it was stopped and repeats only what a
    changed setting touches. Progress goes to stderr, results to stdout. Exit code 2 means that
    the one sentence printed says what to put right; 130 that you stopped it.""",
    epilog="docs/data.md says which files are read; `bbqrec settings` prints every setting.",
)
# Before torch is imported: on a busy small machine two threads are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")


TREC_DEPTH = 20


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        sys.stdout.write(f"bbqrec {__version__}\n")
        raise typer.Exit
    return is_asked


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws another shop.")] = 0,
    device: Device = "auto",
    track: Track = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw a shop, learn its semantic IDs, train, evaluate and recommend: the whole path.

    Needs no data and no network, takes minutes on a CPU and ends with OUT/report.html.
    Another shop: `bbqrec demo --seed 1 --out runs/demo1`
    """
    with session(quiet):
        from bbqrec.pipeline import choose_device, run_demo

        run_demo(out, seed=seed, device=choose_device(device), track=track)
        _show(out, "report", as_json)


@app.command()
def run(
    config: ConfigArgument = None,
    data: Data = None,
    out: Out = Path("runs/latest"),
    preset: PresetOption = None,
    overrides: Overrides = None,
    device: Device = "auto",
    seed: Seed = None,
    dry_run: DryRun = False,
    track: Track = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """From raw data to recommendations and a report; what is finished already is kept.

    One table is enough: `bbqrec run --data shop.csv --out runs/shop`

    With settings: `bbqrec run my.toml --data shop.csv --out runs/shop --set training.epochs=5`

    What it would cost: `bbqrec run --data shop.csv --dry-run`
    """
    with session(quiet):
        _run(
            out,
            "report",
            config,
            data,
            overrides,
            device,
            seed,
            dry_run,
            as_json,
            preset=preset,
            track=track,
            takes_data=True,
        )


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A data file or folder.")],
    out: Out,
    config: Annotated[Path | None, typer.Option("--config", help="TOML settings.")] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Import, clean, filter and split interactions; print what was kept and what was not.

    For example: `bbqrec prepare shop.csv --out runs/shop --set prepare.min_user=5`

    Column names of your own: `--set prepare.columns.user_id=customer`
    """
    with session(quiet):
        _run(out, "prepare", config, source, overrides, "cpu", None, False, as_json)


@app.command()
def encode(
    run: RunArgument,
    overrides: Overrides = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Turn texts and images into feature vectors; unreadable images are counted, not fatal.

    For example: `bbqrec encode runs/shop`
    """
    with session(quiet):
        _run(run, "encode", None, None, overrides, device, None, False, as_json)


@app.command()
def tokenize(
    run: RunArgument,
    overrides: Overrides = None,
    device: Device = "auto",
    track: Track = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Learn every item's semantic ID (encoding first if need be); print the health of the codes.

    For example: `bbqrec tokenize runs/shop --set tokenizer.num_levels=4`
    """
    with session(quiet):
        _run(run, "tokenize", None, None, overrides, device, None, False, as_json, track=track)


@app.command()
def train(
    run: RunArgument,
    overrides: Overrides = None,
    device: Device = "auto",
    track: Track = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the recommender on the run's semantic IDs, after the stages before it.

    For example: `bbqrec train runs/shop --device cuda --set training.epochs=20`
    """
    with session(quiet):
        _run(run, "train", None, None, overrides, device, None, False, as_json, track=track)


@app.command()
def evaluate(
    run: RunArgument,
    trec: Annotated[
        Path | None,
        typer.Option(
            "--trec",
            help="Also write the test's lists, history items left out, as run.trec and qrels.trec "
            "into this folder.",
        ),
    ] = None,
    overrides: Overrides = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the recommender beside popularity and item-kNN; write RUN/metrics.json.

    Stages before it that are not done or out of date, training among them, are done first.

    For example: `bbqrec evaluate runs/shop --quiet --json`
    """
    with session(quiet):
        _run(run, "evaluate", None, None, overrides, device, None, False, as_json)
        if trec is not None:
            _write_trec(run, trec, device)


@app.command()
def report(run: RunArgument, quiet: Quiet = False, as_json: Json = False) -> None:
    """Write RUN/report.html: one file with pictures, codes, curves and metrics.

    Stages before it that are not done or out of date, training among them, are done first.

    For example: `bbqrec report runs/shop`
    """
    with session(quiet):
        _run(run, "report", None, None, None, "auto", None, False, as_json)


@app.command()
def settings(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG|RUN]", help="TOML settings, or a run folder, for its own."),
    ] = None,
    preset: PresetOption = None,
) -> None:
    """Print every setting with its default (or CONFIG's, or RUN's) value, as TOML to start from.

    For example: `bbqrec settings --preset fast > my.toml`

    Those of a run: `bbqrec settings runs/shop`
    """
    from bbqrec.bundle import RunFolder
    from bbqrec.config import as_toml
    from bbqrec.run_config import RunConfig

    with session(quiet=True):
        values = {}
        if config is not None:
            is_run = config.is_dir()
            path = RunFolder(config).config_path if is_run else config
            values = _kept_settings(path) if is_run else read_settings(path)
        if preset is not None:
            values = _with_preset(values, preset, config)
        sys.stdout.write(as_toml(RunConfig.parse(values, source=str(config))) + "\n")


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
    *,
    preset: Preset | None = None,
    track: str = "none",
    takes_data: bool = False,
) -> None:
    from bbqrec.bundle import RunFolder, not_a_run
    from bbqrec.config import apply_overrides
    from bbqrec.pipeline import choose_device, run_stages
    from bbqrec.run_config import RunConfig
    from bbqrec.training.tracking import tracked_by

    if data is None and not takes_data and not out.is_dir():
        raise ConfigError(not_a_run(out))
    folder = RunFolder(out)
    if config_path is not None:
        values, name = read_settings(config_path), str(config_path)
    elif folder.config_path.is_file():
        values, name = _kept_settings(folder.config_path), str(folder.config_path)
    else:
        values, name = {}, "the settings"
    if preset is not None:
        values = _with_preset(values, preset, config_path)
    values = apply_overrides(values, overrides or [])
    name += " with --set" if overrides else ""
    if seed is not None:
        values["seed"] = seed
    config = RunConfig.parse(values, source=name)
    if data is not None and not data.exists():
        raise ConfigError(f"there is no data at {data}; --data takes a file or a folder")
    if data is None and not folder.folder("prepare").is_dir():
        raise ConfigError(
            f"{out} holds no prepared data yet; "
            f"{'say where the raw data are with --data, or ' if takes_data else ''}"
            f"run `bbqrec prepare SOURCE --out {out}` first"
        )
    if dry_run:
        from bbqrec.estimate import estimate

        values, table = estimate(folder, config, source=data, device=choose_device(device))
        print_json(values) if as_json else Console().print(table)
        return
    with tracked_by(track, out, config.model_dump(mode="json")):
        run_stages(folder, config, source=data, device=choose_device(device), until=until)
    _show(out, until, as_json)


def _with_preset(values: dict[str, Any], preset: Preset, config: Path | None) -> dict[str, Any]:
    """A preset is where settings begin: it goes over those of a run, but not over a file's."""
    if config is not None and config.is_file():
        raise ConfigError(
            f"{config} and --preset both say where to begin; leave one out, or make a file of the "
            f"preset to change with `bbqrec settings --preset {preset} > my.toml`"
        )
    return lay_preset(values, preset)


def _write_trec(run: Path, folder: Path, device: str) -> None:
    from bbqrec.evaluation import write_trec
    from bbqrec.pipeline import choose_device
    from bbqrec.recommend import Recommender

    recommender = Recommender.from_pretrained(run, device=choose_device(device))
    dataset = recommender.dataset
    write_trec(folder, recommender.ranker, dataset.test, dataset, k=TREC_DEPTH, exclude_seen=True)
    say(f"{folder / 'run.trec'} and qrels.trec hold {len(dataset.test):,} lists of {TREC_DEPTH}")


def _kept_settings(path: Path) -> dict[str, Any]:
    from bbqrec.storage import read_json

    try:
        values = read_json(path)
    except CorruptArtifactError as error:
        raise CorruptArtifactError(f"{error}; give the settings again with `run CONFIG`") from None
    if not isinstance(values, dict):
        raise CorruptArtifactError(
            f"{path} does not hold the settings of a run; give them again with `run CONFIG`"
        )
    return values


def _show(out: Path, stage: str, as_json: bool) -> None:
    from bbqrec.bundle import RunFolder
    from bbqrec.summary import summarize

    values, renderable = summarize(RunFolder(out), stage)
    if as_json:
        print_json(values)
    else:
        Console().print(renderable, crop=False)  # commands are to be copied whole


app.add_typer(cli_recommend.commands)
app.add_typer(cli_explain.commands)
app.add_typer(cli_serve.commands)
app.add_typer(cli_export.commands)
app.add_typer(cli_update.commands)
app.add_typer(cli_benchmark.commands)


def main() -> None:
    """Entry point of the `bbqrec` command."""
    app()
