"""The commands that compare: a matrix of models, or the lists of anybody's recommender."""

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from bbqrec.cli_options import Device, Json, Overrides, Quiet, print_json, read_settings
from bbqrec.terminal import session

if TYPE_CHECKING:
    from bbqrec.data import Dataset

commands = typer.Typer()


@commands.command()
def benchmark(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML: data sets and rows.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder with the data sets' folders; only for missing cells."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Gets a folder named as CONFIG: tables, a page, cells.")
    ] = Path("docs/results"),
    work: Annotated[
        Path, typer.Option("--work", help="Gets such a folder, too: a run with its model per cell.")
    ] = Path("runs/benchmark"),
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ROW", help="Make this row (repeatable).")
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option("--on", metavar="DATA", help="Make rows on this data set.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="ROW", help="Compare with this row, not CONFIG's."),
    ] = None,
    final: Annotated[
        bool, typer.Option("--final", help="Show test results; the look is logged.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare models on data sets over seeds, under one protocol; finished cells are kept.

    For example: `bbqrec benchmark configs/bench_amazon.toml --data DATA`

    The tables show validation, on which choices are made, until you ask for the test with
    `--final`. To use two cores, run the same command in two terminals.
    """
    with session(quiet):
        from bbqrec.benchmark import BenchmarkConfig, run_benchmark, write_tables
        from bbqrec.evaluation import overall_table
        from bbqrec.pipeline import choose_device

        values = read_settings(config)
        if reference is not None:
            values["reference"] = reference
        matrix = BenchmarkConfig.parse(values, source=str(config))
        chosen = choose_device(device)
        # A folder each: two benchmarks may name a row alike and mean something else.
        out, work = out / config.stem, work / config.stem
        run_benchmark(
            matrix,
            data_dir=data,
            out_dir=out,
            work_dir=work,
            device=chosen,
            only=tuple(only or ()),
            on=tuple(on or ()),
        )
        named = f" --reference {shlex.quote(reference)}" if reference is not None else ""
        command = f"bbqrec benchmark {config} --data DATA{named}{' --final' if final else ''}"
        path, tables = write_tables(
            matrix, name=config.stem, command=command, out_dir=out, final=final
        )
        if as_json:
            print_json({table.data: table.evaluation.to_json() for table in tables})
            return
        for table in tables:
            for setting in ("filtered", "kept"):
                shown: Table = overall_table(
                    table.evaluation, setting, metrics=("recall@10", "ndcg@10")
                )
                shown.title = f"{table.data}: {shown.title}"
                Console().print(shown)
        Console().print(f"written to {path} and {path.with_suffix('.html')}")


@commands.command()
def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="Lists per user: .jsonl, .csv, .parquet or a TREC run (.trec, .run).",
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", help="A run folder, or raw data to prepare by the settings.")
    ],
    split: Annotated[
        Literal["test", "validation"], typer.Option("--split", help="Whose targets to look for.")
    ] = "test",
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Put the lists of any recommender through the same protocol, beside popularity and item-kNN.

    For example: `bbqrec score theirs.jsonl --data runs/shop`

    Lists answer for what a user does after the history of the split: for the test, all but the
    last interaction. Give more items than the deepest metric looks at, since one of the two
    settings takes history items out.
    """
    with session(quiet):
        from bbqrec.evaluation import evaluate, overall_table, read_predictions
        from bbqrec.recommender import fit_popularity, tune_item_knn

        dataset = _prepared(data, overrides or [])
        cases = dataset.test if split == "test" else dataset.validation
        name = predictions.stem
        evaluation = evaluate(
            {"popularity": fit_popularity(dataset), "item-kNN": tune_item_knn(dataset, seed=0)},
            cases,
            dataset,
            lists={name: read_predictions(predictions, dataset, cases)},
            reference="item-kNN",
            split=split,
        )
        if as_json:
            print_json(evaluation.to_json())
            return
        for setting in ("filtered", "kept"):
            Console().print(overall_table(evaluation, setting, metrics=("recall@10", "ndcg@10")))


def _prepared(source: Path, overrides: list[str]) -> "Dataset":
    """The data of a run folder, or of a source prepared for this once."""
    from bbqrec.bundle import RunFolder
    from bbqrec.config import apply_overrides
    from bbqrec.data import prepare
    from bbqrec.run_config import RunConfig

    run = RunFolder(source)
    if (run.folder("prepare") / "manifest.json").is_file():
        run.verify("prepare")
        return run.dataset()
    config = RunConfig.parse(apply_overrides({}, overrides), source="the settings")
    with tempfile.TemporaryDirectory() as folder:
        return prepare(source, Path(folder), config.prepare)
