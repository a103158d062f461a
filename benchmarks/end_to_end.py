"""From raw data to recommendations and a report: seconds and memory of every stage.

    python benchmarks/end_to_end.py [--data DIR] [--config FILE]

The drawn shop with the settings of `bbqrec demo`, or the data and settings given. Every stage runs
once, after those before it, so there are no rounds.
"""

import argparse
import tempfile
from pathlib import Path

import memory
import rounds

from bbqrec.bundle import RunFolder
from bbqrec.config import read_toml
from bbqrec.data import draw_shop
from bbqrec.pipeline import STAGES, find_config, run_stages
from bbqrec.run_config import RunConfig


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="raw data or a dataset folder")
    parser.add_argument("--config", type=Path, default=find_config("demo"))


def main() -> None:
    found = rounds.options(__doc__, rounds=1, more=add_source, keeps_kernels=False)
    report = rounds.Report("end_to_end", found)
    config = RunConfig.parse(read_toml(found.config), source=found.config.name)
    with tempfile.TemporaryDirectory() as place:
        source, run = found.data, RunFolder(Path(place) / "run")
        if source is None:
            source = Path(place) / "shop"
            draw_shop(source, seed=0, num_items=200 if found.quick else 800)
        total = 0.0
        for stage in STAGES:
            start = rounds.clock()
            working_mb = memory.working_mb(
                lambda until=stage: run_stages(run, config, source=source, until=until)
            )
            seconds = rounds.clock() - start
            total += seconds
            report.row(
                data="drawn shop" if found.data is None else found.data.name,
                stage=stage,
                s=rounds.rounded(seconds),
                working_mb=rounds.rounded(working_mb),
            )
        report.row(data="", stage="all", s=rounds.rounded(total))
    report.close()


if __name__ == "__main__":
    main()
