"""Models x data sets x seeds under one protocol, every finished cell kept."""

from bbqrec.benchmark.cells import Cell, CellStore
from bbqrec.benchmark.config import BenchmarkConfig
from bbqrec.benchmark.matrix import run_benchmark
from bbqrec.benchmark.tables import write_tables

__all__ = ["BenchmarkConfig", "Cell", "CellStore", "run_benchmark", "write_tables"]
