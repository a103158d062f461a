"""The quick benchmark, the one that people try first, runs from its own file at a reduced size."""

from pathlib import Path

import pytest
from tiny_run import TINY, draw_tiny_shop

from bbqrec.benchmark import BenchmarkConfig, run_benchmark, write_tables
from bbqrec.config import read_toml

QUICK = Path(__file__).parents[2] / "configs" / "bench_quick.toml"


@pytest.mark.real_data
def test_the_quick_benchmark_runs_at_a_reduced_size(real_data: Path, tmp_path: Path) -> None:
    values = read_toml(QUICK)
    work = tmp_path / "work"
    draw_tiny_shop(work / "shop-0")
    for data in values["data"].values():
        data["settings"]["tokenizer"] = TINY["tokenizer"] | {"codebook_size": 16}
    values["data"]["ml1m_sparse"]["settings"]["prepare"] |= {"latest": 12, "min_item": 25}
    values["settings"]["training"] |= TINY["training"]
    values["settings"]["evaluation"] = TINY["evaluation"]
    config = BenchmarkConfig.parse(values)

    run_benchmark(config, data_dir=real_data, out_dir=tmp_path, work_dir=work)
    path, tables = write_tables(config, name="quick", command="", out_dir=tmp_path, final=False)

    num_alone = sum(row.data is not None for row in config.rows.values())  # the shop's
    assert [len(table.rows) for table in tables] == [len(config.rows), len(config.rows) - num_alone]
    assert not any(table.missing for table in tables)
    for table in tables:
        score = {name: found["filtered"] for name, found in table.evaluation.models.items()}
        learned = score["BBQRec"].overall.metrics["ndcg@10"].mean
        assert learned > score["popularity"].overall.metrics["ndcg@10"].mean
    assert path.with_suffix(".html").is_file()
