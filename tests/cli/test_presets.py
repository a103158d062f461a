"""A preset is where settings begin."""

import tomllib
from pathlib import Path
from typing import get_args

import pytest
from command_line import invoke, refusal

from bbqrec.benchmark import BenchmarkConfig
from bbqrec.config import read_toml
from bbqrec.presets import Preset, lay_preset
from bbqrec.recommender import RecommenderConfig
from bbqrec.run_config import RunConfig

BENCHMARK = Path(__file__).parents[2] / "configs" / "bench_amazon.toml"


@pytest.mark.parametrize("name", get_args(Preset))
def test_printed_presets_are_settings_to_start_from(name: Preset) -> None:
    printed = invoke("settings", "--preset", name).stdout

    settings = RunConfig.parse(tomllib.loads(printed))

    assert settings == RunConfig.parse(lay_preset({}, name))
    assert settings.recommender.form == ("paper" if name == "paper" else "one_pass")
    assert settings.ranking.rank_by == ("generative" if name in ("generate", "paper") else "dense")


def test_the_default_is_a_preset() -> None:
    assert RunConfig.parse(lay_preset({}, "fast")) == RunConfig()


def test_a_preset_goes_over_the_shape_of_a_run_and_leaves_the_rest() -> None:
    kept = RunConfig.parse(
        {
            "recommender": RecommenderConfig.paper().model_dump(),
            "ranking": {"rank_by": "generative", "beam_width": 7},
            "training": {"epochs": 3},
        }
    )

    changed = RunConfig.parse(lay_preset(kept.model_dump(mode="json"), "fast"))

    assert changed.recommender == RecommenderConfig()
    assert (changed.ranking.rank_by, changed.ranking.beam_width) == ("dense", 7)
    assert changed.training == kept.training


def test_a_file_of_settings_and_a_preset_are_refused_together(shop: Path, tmp_path: Path) -> None:
    for command in (["settings"], ["run", "--data", shop, "--out", tmp_path / "run"]):
        message = refusal(*command, shop / "tiny.toml", "--preset", "fast")

        assert "both say where to begin" in message
        assert "bbqrec settings --preset fast > my.toml" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "preset"),
    [
        ("BBQRec", "fast"),
        ("BBQRec, Transformer decoder", "one_pass"),
        ("BBQRec, generated", "generate"),
    ],
)
def test_presets_have_their_rows_among_the_results(row: str, preset: Preset) -> None:
    benchmark = BenchmarkConfig.parse(read_toml(BENCHMARK))
    key = next(key for key in benchmark.cells() if key.row == row)

    config = benchmark.run_config(key)

    expected = RunConfig.parse(lay_preset({}, preset))
    shape = expected.recommender.model_copy(update={"max_history": 50, "dropout": 0.3})
    assert config.recommender == shape
    assert config.ranking == expected.ranking
    for weight in ("generative_weight", "dense_weight"):
        assert getattr(config.training, weight) == getattr(expected.training, weight)
