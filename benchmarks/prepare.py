"""How long and in how much memory `prepare` takes 10 million interactions.

    python benchmarks/prepare.py [--rows 10000000] [--format parquet|csv]

Draws its own log (half a million users, a hundred thousand items of Zipf popularity, time order),
prepares it with a 5-core in a process of its own, and prints one JSON line. Peak memory is that
process's resident set. The bar: at most 60 s and 4 GiB on two cores.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAX_WALL_S = 60.0
MAX_PEAK_GIB = 4.0


def draw_log(path: Path, num_rows: int) -> None:
    """Write a log of `num_rows` interactions in time order."""
    import numpy as np
    import polars as pl

    generator = np.random.default_rng(0)
    users = generator.integers(0, max(10, num_rows // 20), num_rows)
    items = generator.zipf(1.3, num_rows) % max(10, num_rows // 100)
    times = 1_600_000_000 + np.arange(num_rows) * 3 + generator.integers(0, 1000, num_rows)
    frame = pl.LazyFrame({"user": users, "item": items, "timestamp": times}).select(
        user_id=pl.format("user-{}", "user"),
        item_id=pl.format("B{}", pl.col("item").cast(pl.String).str.zfill(9)),
        timestamp="timestamp",
    )
    if path.suffix == ".csv":
        frame.sink_csv(path)
    else:
        frame.sink_parquet(path)


def measure(source: Path, out_dir: Path) -> None:
    """Prepare `source` and print what it took."""
    from bbqrec.data import PrepareConfig, prepare

    start = time.perf_counter()
    dataset = prepare(source, out_dir, PrepareConfig(min_user=5, min_item=5))
    wall_s = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }
    print(json.dumps({**found, **dataset.info["statistics"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        source, out_dir = Path(folder, f"log.{arguments.format}"), Path(folder, "prepared")
        out_dir.mkdir()
        draw_log(source, arguments.rows)
        environment = {**os.environ, "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--measure", str(source), str(out_dir)]
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    found = json.loads(done.stdout)
    peak_gib = found["peak_bytes"] / 2**30
    result = {
        "benchmark": "prepare",
        "format": arguments.format,
        "rows": arguments.rows,
        "users": found["users"],
        "items": found["items"],
        "interactions": found["interactions"],
        "wall_s": round(found["wall_s"], 1),
        "cpu_s": round(found["cpu_s"], 1),
        "peak_gib": round(peak_gib, 2),
        "cores": 2,
        "processor": platform.processor() or platform.machine(),
        "is_within_bar": found["wall_s"] <= MAX_WALL_S and peak_gib <= MAX_PEAK_GIB,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
