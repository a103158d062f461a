"""A small matrix end to end: cells are made once, kept, and add up to honest tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import TINY, draw_tiny_shop

from bbqrec.benchmark import BenchmarkConfig, Cell, CellStore, run_benchmark, write_tables
from bbqrec.benchmark.cells import made_with
from bbqrec.benchmark.config import CellKey
from bbqrec.benchmark.tables import collect
from bbqrec.bundle import RunFolder
from bbqrec.decoding import MergedRanker
from bbqrec.errors import ConfigError, CorruptArtifactError, DataError
from bbqrec.evaluation import Evaluation, evaluate
from bbqrec.recommend import Recommender
from bbqrec.recommender import OnePassRecommender
from bbqrec.run_config import RunConfig
from bbqrec.storage import read_json, write_json
from bbqrec.training.recommender import UpdateConfig


def tiger_on(modality: str) -> dict[str, Any]:
    return {
        "settings": {
            "tokenizer": {"method": "rq_vae", "modalities": [modality]},
            "training": {"dense_weight": 0.0, "generative_weight": 1.0, "epochs": 1},
            "ranking": {"rank_by": "generative", "beam_width": 12},
        }
    }


TEXT_CODES = {"tokenizer": {"method": "rq_kmeans"}, "training": {"epochs": 1}}
CODES = {"settings": TEXT_CODES}
PARTS = ("TIGER on text", "TIGER on image")


def matrix(**changes: Any) -> BenchmarkConfig:
    values: dict[str, Any] = {
        "reference": "ID only",
        "settings": TINY,
        "data": {"shop": {"folder": "shop"}},
        "rows": {
            "popularity": {"kind": "popularity"},
            "item-kNN": {"kind": "item_knn"},
            "ID only": {
                "about": "a plain sequence model",
                "seeds": [0, 1],
                "settings": {
                    "tokenizer": {"method": "rq_kmeans"},
                    "recommender": {"use_codes": False, "use_content": False},
                    "training": {"generative_weight": 0.0, "epochs": 1},
                },
            },
            "content-kNN": {"kind": "content_knn"},
            "merged": {"kind": "merged", "of": PARTS},
            "TIGER on text": tiger_on("text"),
            "TIGER on image": tiger_on("image"),
            "codes": CODES,
            "shuffled": {"kind": "shuffled", **CODES},
            "warm start": {"kind": "warm_start", "of": ["ID only"], "settings": TEXT_CODES},
        },
    }
    return BenchmarkConfig.parse(values | changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All cells of `matrix()`, made once."""
    directory = tmp_path_factory.mktemp("benchmark")
    draw_tiny_shop(directory / "data" / "shop")
    folders = {
        "data_dir": directory / "data",
        "out_dir": directory / "out",
        "work_dir": directory / "work",
    }
    assert run_benchmark(matrix(), **folders) == []
    return folders


def made_cell(folders: dict[str, Path], row: str) -> tuple[CellKey, Cell]:
    key = next(k for k in matrix().cells() if k.row == row)
    cell = CellStore(folders["out_dir"] / "cells", "shop").load(key)
    assert cell is not None
    return key, cell


def stamps(folders: dict[str, Path]) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folders["out_dir"] / "cells/shop").iterdir()}


def test_finished_cells_are_not_made_again_and_need_no_data(folders: dict[str, Path]) -> None:
    before = stamps(folders)

    skipped = run_benchmark(
        matrix(), data_dir=None, out_dir=folders["out_dir"], work_dir=folders["work_dir"]
    )

    assert skipped == []
    assert stamps(folders) == before
    assert "id-only-seed1.json" in before


def test_a_cell_is_what_the_settings_of_today_would_make(folders: dict[str, Path]) -> None:
    config = matrix()
    key = next(k for k in config.cells() if k.row == "ID only")
    store = CellStore(folders["out_dir"] / "cells", "shop")
    cell = store.load(key)
    assert cell is not None
    settings = config.run_config(key)
    other = matrix(settings={**TINY, "training": {**TINY["training"], "learning_rate": 0.5}})
    older = {**cell.settings["training"]}
    older.pop("num_negatives")  # as if the cell had been made before that setting existed
    of_before = cell.model_copy(update={"settings": {**cell.settings, "training": older}})
    sampled = settings.training.model_copy(update={"num_negatives": 5})

    assert made_with(cell, "model", settings)
    assert not made_with(cell, "model", other.run_config(key))
    assert made_with(of_before, "model", settings)
    assert not made_with(of_before, "model", settings.model_copy(update={"training": sampled}))
    assert not made_with(cell, "popularity", settings)


def test_what_writes_codes_matters_only_to_a_model_that_writes_some(
    folders: dict[str, Path],
) -> None:
    _, cell = made_cell(folders, "ID only")
    row = matrix().run_config(next(k for k in matrix().cells() if k.row == "ID only"))
    other = "light" if row.recommender.decoder != "light" else "transformer"
    for weight, is_same in ((0.0, True), (0.3, False)):
        training = row.training.model_copy(update={"generative_weight": weight})
        settings = row.model_copy(update={"training": training})
        of_then = cell.model_copy(update={"settings": settings.model_dump(mode="json")})
        recommender = settings.recommender.model_copy(update={"decoder": other})
        changed = settings.model_copy(update={"recommender": recommender})

        assert made_with(of_then, "model", settings)
        assert made_with(of_then, "model", changed) == is_same
        updated = settings.model_copy(update={"update": UpdateConfig(epochs=77)})
        assert made_with(of_then, "model", updated)


def test_a_merged_cell_is_made_again_when_a_part_changes(folders: dict[str, Path]) -> None:
    key, cell = made_cell(folders, "merged")
    rows = matrix().model_dump(mode="json")["rows"]
    wider = {**rows, "TIGER on image": tiger_on("image")}
    wider["TIGER on image"]["settings"]["ranking"]["beam_width"] = 13
    stored = {name: {**part} for name, part in cell.settings["parts"].items()}
    for part in stored.values():  # as if made before that setting existed
        part["training"] = {k: v for k, v in part["training"].items() if k != "num_negatives"}
    of_before = cell.model_copy(update={"settings": {**cell.settings, "parts": stored}})
    without = {**rows, "merged": {"kind": "merged", "of": ["TIGER on text", "ID only"]}}

    assert made_with(cell, "merged", matrix().run_config(key))
    assert made_with(of_before, "merged", matrix().run_config(key))
    assert not made_with(cell, "merged", matrix(rows=wider).run_config(key))
    assert not made_with(cell, "merged", matrix(rows=without).run_config(key))


def test_a_merged_row_ranks_what_its_parts_models_list(folders: dict[str, Path]) -> None:
    key, cell = made_cell(folders, "merged")
    shop = folders["work_dir"] / "shop"
    runs = [shop / key._replace(row=part).name for part in PARTS]
    parts = [Recommender.from_pretrained(run) for run in runs]
    dataset = parts[0].dataset

    merged = MergedRanker(tuple(part.ranker for part in parts), dataset.num_items, 12)
    expected = evaluate(
        {"merged": merged}, dataset.test, dataset, matrix().run_config(key).evaluation
    )

    ranks = CellStore(folders["out_dir"] / "cells", "shop").ranks(key)
    for setting, found in expected.ranks["merged"].items():
        assert ranks[f"test.{setting}"].tolist() == found.tolist()
    assert not (shop / key.name / "recommender").exists()
    of_parts = [made_cell(folders, part)[1].facts["num_parameters"] for part in PARTS]
    assert cell.facts["num_parameters"] == sum(of_parts)


def test_a_shuffled_row_has_the_codes_of_other_items(folders: dict[str, Path]) -> None:
    key, cell = made_cell(folders, "shuffled")
    of_model, _ = made_cell(folders, "codes")
    shop = folders["work_dir"] / "shop"
    codes = RunFolder(shop / of_model.name).semantic_ids().codes
    shuffled = RunFolder(shop / f"{key.name}-control").semantic_ids().codes
    reseeded = matrix().run_config(key).model_copy(update={"seed": 1})

    assert sorted(shuffled.tolist()) == sorted(codes.tolist())
    assert (shuffled != codes).any(1).float().mean() > 0.9
    assert made_with(cell, "shuffled", matrix().run_config(key))
    assert not made_with(cell, "shuffled", reseeded)
    assert not made_with(cell, "model", matrix().run_config(key))


def test_a_warm_start_begins_with_the_other_models_vectors(folders: dict[str, Path]) -> None:
    key, cell = made_cell(folders, "warm start")
    shop = folders["work_dir"] / "shop"
    slower = matrix().model_dump(mode="json")["rows"]
    slower["ID only"]["settings"]["training"]["learning_rate"] = 0.5

    def own(name: str) -> torch.Tensor:
        model = Recommender.from_pretrained(shop / name).model
        assert isinstance(model, OnePassRecommender)
        assert model.item_vectors.id_vectors is not None
        return model.item_vectors.id_vectors.detach()

    begun = own("id-only-seed0") / own("id-only-seed0").norm(dim=-1).mean()
    assert torch.dist(own(f"{key.name}-control"), begun) < torch.dist(own("codes-seed0"), begun) / 4
    assert made_with(cell, "warm_start", matrix().run_config(key))
    assert not made_with(cell, "warm_start", matrix(rows=slower).run_config(key))


def test_a_warm_start_needs_vectors_to_begin_with(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = matrix().model_dump(mode="json")["rows"]
    rows["codes"] = {"settings": {**TEXT_CODES, "recommender": {"use_id": False}}}
    rows["warm start"]["of"] = ["codes"]

    with pytest.raises(ConfigError, match=r"of codes-seed0, which has none; name a row with"):
        run_benchmark(
            matrix(rows=rows),
            data_dir=folders["data_dir"],
            out_dir=tmp_path / "out",
            work_dir=tmp_path / "work",
            only=("warm start",),
        )


def test_content_knn_depends_on_how_content_was_encoded(folders: dict[str, Path]) -> None:
    key, cell = made_cell(folders, "content-kNN")
    other = matrix(settings={**TINY, "encode": {"text": {"encoder": "lexical", "dim": 8}}})
    trained_otherwise = matrix(settings={**TINY, "training": {"epochs": 2}})

    assert cell.facts["chosen"]["history_length"] >= 1
    assert made_with(cell, "content_knn", trained_otherwise.run_config(key))
    assert not made_with(cell, "content_knn", other.run_config(key))


def test_rows_average_their_seeds_and_are_compared_user_by_user(folders: dict[str, Path]) -> None:
    config = matrix()

    table = collect(config, "shop", folders["out_dir"], "test")

    assert table is not None
    store = table.store
    seeds = [k for k in config.cells() if k.row == "ID only"]
    hits = [(lambda r: (r > 0) & (r <= 10))(store.ranks(k)["test.filtered"]) for k in seeds]
    overall = table.evaluation.models["ID only"]["filtered"].overall
    assert overall.metrics["recall@10"].mean == pytest.approx(np.mean(hits))
    deviation = table.rows[2].deviation(store, "test", "filtered", "recall@10")
    assert deviation == pytest.approx(np.std([h.mean() for h in hits], ddof=1))
    popular = store.ranks(next(k for k in config.cells() if k.row == "popularity"))
    ours = (popular["test.filtered"] > 0) & (popular["test.filtered"] <= 10)
    difference = table.evaluation.models["popularity"]["filtered"].overall.difference["recall@10"]
    assert difference.mean == pytest.approx((ours - np.mean(hits, axis=0)).mean())
    codes = store.ranks(next(k for k in config.cells() if k.row == "codes"))["test.filtered"]
    difference = table.evaluation.models["codes"]["filtered"].overall.difference["recall@10"]
    same_seed = ((codes > 0) & (codes <= 10)).mean() - hits[0].mean()
    assert difference.mean == pytest.approx(same_seed)
    counts = [s.num_cases for s in overall_slices(table.evaluation, "history length")]
    assert sum(counts) == table.evaluation.num_cases


def overall_slices(evaluation: Evaluation, kind: str) -> list[Any]:
    return list(evaluation.models["ID only"]["filtered"].slices[kind].values())


def test_test_results_are_shown_only_when_asked_for_and_that_is_logged(
    folders: dict[str, Path],
) -> None:
    log = folders["out_dir"] / "cells" / "revealed.jsonl"

    path, tables = write_tables(
        matrix(), name="tiny", command="bbqrec", out_dir=folders["out_dir"], final=False
    )

    assert {t.evaluation.split for t in tables} == {"validation"}
    assert "**Validation** results" in path.read_text()
    assert not log.exists()
    for _ in range(2):
        write_tables(
            matrix(), name="tiny", command="bbqrec", out_dir=folders["out_dir"], final=True
        )
    assert "**Validation** results" not in path.read_text()
    assert len(log.read_text().splitlines()) == 1


def test_the_same_stages_are_shared_between_neighbors(folders: dict[str, Path]) -> None:
    runs = [folders["work_dir"] / "shop" / f"id-only-seed{seed}" for seed in (0, 1)]

    shared = [(run / "features" / "text.safetensors").stat().st_ino for run in runs]
    apart = [(run / "tokenizer" / "semantic_ids.safetensors").stat().st_ino for run in runs]

    assert shared[0] == shared[1]
    assert apart[0] != apart[1]  # another seed, other codes


def test_a_cell_that_another_process_makes_is_left_to_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = matrix(rows={"ID only": {}, "popularity": {"kind": "popularity"}})
    busy = RunFolder(tmp_path / "work" / "shop" / "id-only-seed0")

    with busy.locked():
        left = run_benchmark(
            config, data_dir=folders["data_dir"], out_dir=tmp_path, work_dir=tmp_path / "work"
        )

    assert [key.row for key in left] == ["ID only"]
    assert (tmp_path / "cells" / "shop" / "popularity-seed0.json").is_file()


def test_cells_hold_no_user_ids(folders: dict[str, Path]) -> None:
    users = read_json(folders["work_dir"] / "shop/popularity-seed0/data/ids.json")["users"]

    for path in (folders["out_dir"] / "cells").rglob("*.json"):
        content = path.read_text()
        assert not any(f'"{user}"' in content for user in users)


def test_what_does_not_fit_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of the rows"):
        matrix(reference="SASRec")
    with pytest.raises(ConfigError, match="names the data set 'toys'"):
        matrix(rows={"ID only": {"data": ["toys"]}})
    with pytest.raises(ConfigError, match="share their files"):
        matrix(rows={"ID only": {}, "id-only": {}})
    wrong = matrix(rows={"ID only": {"settings": {"training": {"epoch": 3}}}})
    with pytest.raises(ConfigError, match=r"shop, ID only, seed 0.*training.epoch"):
        run_benchmark(wrong, **folders)
    with pytest.raises(DataError, match="as --data"):
        run_benchmark(matrix(), data_dir=None, out_dir=tmp_path, work_dir=tmp_path / "work")
    with pytest.raises(DataError, match="no cell"):
        write_tables(matrix(), name="x", command="x", out_dir=tmp_path, final=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of": ["TIGER on text", "TIGER on audio"]}, "'TIGER on audio', which is none"),
        ({"of": ["TIGER on text", "popularity"]}, "'popularity', a row of kind 'popularity'"),
        ({"of": ["TIGER on text", "merged"]}, "'merged', a row of kind 'merged'"),
        ({"of": ["TIGER on text", "TIGER on text"]}, "a row twice"),
        ({"of": None}, "and no other"),
        ({"of": ["TIGER on text"]}, "two or more rows"),
        ({"kind": "warm_start"}, "the one that"),
        ({"kind": "model"}, "and no other"),
        (
            {"seeds": [0, 1]},
            r"merged, seed 1\) needs the cell \(shop, TIGER on (text|image), seed 1",
        ),
    ],
)
def test_only_models_of_the_same_benchmark_are_merged(
    changes: dict[str, Any], message: str
) -> None:
    rows = matrix().model_dump(mode="json")["rows"]

    with pytest.raises(ConfigError, match=message):
        matrix(rows={**rows, "merged": {**rows["merged"], **changes}})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"ranking": {"rank_by": "both"}, "training": {"dense_weight": 1.0}},
            'TIGER on text ranks by "both"',
        ),
        ({"prepare": {"min_item": 7}}, r"TIGER on text has other \[prepare\] settings"),
    ],
)
def test_answers_that_mean_something_else_are_not_merged(
    section: dict[str, Any], message: str
) -> None:
    rows = matrix().model_dump(mode="json")["rows"]
    rows["TIGER on text"]["settings"] |= section
    config = matrix(rows=rows)

    with pytest.raises(ConfigError, match=message):
        config.run_config(next(k for k in config.cells() if k.row == "merged"))


def test_damaged_and_foreign_cells_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    config = matrix()
    key = config.cells()[0]
    cells = tmp_path / "cells" / "shop"
    cells.mkdir(parents=True)
    for path in (folders["out_dir"] / "cells/shop").iterdir():
        (cells / path.name).write_bytes(path.read_bytes())
    values = read_json(cells / f"{key.name}.json")
    write_json(cells / f"{key.name}.json", {**values, "dataset": "another"})

    with pytest.raises(DataError, match=r"popularity, seed 0.*other data"):
        collect(config, "shop", tmp_path, "test")
    (cells / f"{key.name}.npz").write_bytes(b"PK no archive")
    with pytest.raises(CorruptArtifactError, match="is damaged"):
        CellStore(tmp_path / "cells", "shop").ranks(key)


def test_settings_of_rows_and_data_sets_add_up() -> None:
    config = matrix(
        data={"shop": {"folder": "shop", "settings": {"recommender": {"max_history": 7}}}},
        rows={
            "ID only": {
                "settings": {"recommender": {"dropout": 0.1}},
                "on": {"shop": {"recommender": {"dropout": 0.2}}},
            }
        },
    )

    settings = config.run_config(config.cells()[0])

    assert isinstance(settings, RunConfig)
    assert (settings.recommender.max_history, settings.recommender.dropout) == (7, 0.2)
    assert settings.recommender.d_model == TINY["recommender"]["d_model"]
