"""The benchmarks that come with the project are sound before anybody spends hours on them."""

from pathlib import Path

import pytest

from bbqrec.benchmark import BenchmarkConfig
from bbqrec.config import read_toml

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("bench_*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_cell_has_valid_settings_and_rows_differ(path: Path) -> None:
    config = BenchmarkConfig.parse(read_toml(path), source=str(path))

    settings = {key: config.run_config(key).model_dump_json() for key in config.cells()}

    for data in config.data:
        models = [
            settings[key]
            for key in settings
            if key.data == data and config.rows[key.row].kind == "model"
        ]
        assert len(set(models)) == len(models), "two rows are the same model"


def test_there_are_benchmarks() -> None:
    assert {path.stem for path in CONFIGS} >= {"bench_quick", "bench_amazon", "bench_ml1m"}
