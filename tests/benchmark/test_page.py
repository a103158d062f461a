"""The page of a benchmark: the tables' numbers, no more said than they show, nothing fetched."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_run import TINY, draw_tiny_shop

from bbqrec.benchmark import BenchmarkConfig, Cell, CellStore, run_benchmark, write_tables
from bbqrec.benchmark.cells import Lists, relevant_settings
from bbqrec.benchmark.config import CellKey
from bbqrec.evaluation import HISTORY_SETTINGS, Evaluation, environment
from bbqrec.report.template import signed

HOSTILE = '<script>alert("x")</script> & <img src=http://evil.example/x.png>'
Ranks = NDArray[np.int64]


class Page(HTMLParser):
    """The tags of a document with their attributes, and its text without line breaks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace(" :", ":").replace(" ,", ",")

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def matrix(*names: str, **changes: Any) -> BenchmarkConfig:
    """Rows of models called `names`, the first of which is the reference, and popularity."""
    values: dict[str, Any] = {
        "reference": names[0],
        "settings": TINY,
        "data": {"shop": {"folder": "shop"}},
        "rows": {"popularity": {"kind": "popularity"}, **{name: {} for name in names}},
    }
    return BenchmarkConfig.parse(values | changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("page")
    draw_tiny_shop(directory / "data" / "shop")
    return {"data_dir": directory / "data", "work_dir": directory / "work"}


@pytest.fixture
def start(source: dict[str, Path], tmp_path: Path) -> Callable[[BenchmarkConfig], Path]:
    """Make the row popularity, and with it the cases; models are then put beside it."""

    def make(config: BenchmarkConfig) -> Path:
        run_benchmark(config, **source, out_dir=tmp_path / "out", only=("popularity",))
        return tmp_path / "out"

    return make


def put(config: BenchmarkConfig, out: Path, key: CellKey, **ranks: Ranks) -> None:
    """A model's cell with these ranks: of validation, and of test where they differ."""
    kind = config.rows[key.row].kind
    by_split = {"validation": ranks["validation"], "test": ranks.get("test", ranks["validation"])}
    evaluations = {
        split: Evaluation(
            split=split,
            reference=None,
            main_metric="ndcg@10",
            protocol={},
            num_cases=len(of_split),
            num_items=60,
            num_repeat_targets=0,
            models={},
            ranks={key.row: dict.fromkeys(HISTORY_SETTINGS, of_split)},
        )
        for split, of_split in by_split.items()
    }
    lists = Lists(coverage=0.5, novelty_bits=9.0, filled=1.0, users_per_s=100.0)
    cell = Cell(
        row=key.row,
        kind=kind,
        seed=key.seed,
        dataset=CellStore(out / "cells", key.data).cases()["dataset"],
        settings=relevant_settings(kind, config.run_config(key)),
        environment=environment(),
        finished="2025-03-01T10:00:00+00:00",
        facts={"num_parameters": 1234567, "seconds": {"tokenize": 12.0, "train": 196.0}},
        lists={f"{split}.{setting}": lists for split in by_split for setting in HISTORY_SETTINGS},
    )
    CellStore(out / "cells", key.data).save(key, cell, evaluations)


def drawn(share_found: float, *, seed: int = 0, num_cases: int = 150) -> Ranks:
    """Ranks of which this share is 2, the rest not listed."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(num_cases) < share_found, 2, 0).astype(np.int64)


def show(config: BenchmarkConfig, out: Path, *, final: bool = False) -> Page:
    path, _ = write_tables(config, name="tiny", command="bbqrec", out_dir=out, final=final)
    return Page(path.with_suffix(".html").read_text())


def test_the_page_asks_nobody_and_every_link_and_table_is_in_order(
    start: Callable[[BenchmarkConfig], Path],
) -> None:
    config = matrix("SASRec", "ours", data={"shop": {"folder": "shop"}, "two": {"folder": "shop"}})
    out = start(config)
    for key in config.cells():
        if key.row != "popularity":
            put(config, out, key, validation=drawn(0.3, seed=len(key.row)))

    page = show(config, out)

    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} == ids
    assert ids == {"glance", "data-shop", "data-two", "rows", "protocol"}
    assert page.count("table") == page.count("caption") > 10
    assert page.count("h2") == len(ids)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    scrolled = [a for _, a in page.tags if "scroll" in a.get("class", "").split()]
    assert all(a["aria-label"] and a["tabindex"] == "0" for a in scrolled)
    assert "default-src 'none'" in " ".join(a.get("content", "") for _, a in page.tags)


def test_hostile_names_are_shown_as_they_are_written(
    start: Callable[[BenchmarkConfig], Path],
) -> None:
    config = matrix(
        "SASRec",
        HOSTILE,
        about=HOSTILE,
        rows={
            "SASRec": {"settings": {"recommender": {"dropout": 0.25}}},
            HOSTILE: {"about": HOSTILE},
            "popularity": {"kind": "popularity"},
        },
    )
    out = start(config)
    for key in config.cells()[:2]:
        put(config, out, key, validation=drawn(0.5, seed=len(key.row)))

    page = show(config, out)

    assert page.count("script") == page.count("img") == 0
    assert "recommender.dropout = 0.25" in page.words
    assert sum(HOSTILE in words for words in page.words) > 10


@pytest.mark.parametrize(
    ("shares", "sentence", "reason"),
    [
        ((0.2, 0.8), "ours is better than SASRec: NDCG@10", "all of it above 0"),
        ((0.9, 0.6), "the best row besides SASRec, is worse than SASRec:", "all of it below 0"),
        ((0.5, 0.5), "ours and SASRec are level: NDCG@10", "no difference is shown"),
    ],
)
def test_the_sentence_says_what_the_interval_shows(
    start: Callable[[BenchmarkConfig], Path],
    shares: tuple[float, float],
    sentence: str,
    reason: str,
) -> None:
    config = matrix("SASRec", "ours")
    out = start(config)
    for key, share in zip(config.cells()[1:], shares, strict=True):
        put(config, out, key, validation=drawn(share, seed=len(key.row)))

    page = show(config, out)

    assert sentence in page.text
    assert reason in page.text
    assert "picked from 2 rows by these same numbers" in page.text


def test_the_numbers_are_those_of_the_tables(start: Callable[[BenchmarkConfig], Path]) -> None:
    config = matrix("SASRec", "ours")
    out = start(config)
    put(config, out, config.cells()[1], validation=drawn(0.3, seed=1))
    put(config, out, config.cells()[2], validation=drawn(0.6, seed=2))

    path, (table,) = write_tables(config, name="tiny", command="bbqrec", out_dir=out, final=False)

    text = Page(path.with_suffix(".html").read_text()).text
    for by_setting in table.evaluation.models.values():
        for result in by_setting.values():
            for metric in ("ndcg@10", "recall@10"):
                assert f"{result.overall.metrics[metric].mean:.4f}" in text
                if difference := result.overall.difference.get(metric):
                    shown = [signed(value, 4) for value in difference.model_dump().values()]
                    assert all(number in text for number in shown)
    assert "split: leave one out" in text
    assert "1,234,567" in text
    assert "3 min 16 s" in text


def test_on_the_test_the_row_is_still_chosen_on_validation(
    start: Callable[[BenchmarkConfig], Path],
) -> None:
    config = matrix("SASRec", "careful", "lucky")
    out = start(config)
    _, reference, careful, lucky = config.cells()
    put(config, out, reference, validation=drawn(0.3, seed=1))
    put(config, out, careful, validation=drawn(0.8, seed=2), test=drawn(0.7, seed=3))
    put(config, out, lucky, validation=drawn(0.6, seed=4), test=drawn(0.9, seed=5))

    validation, test = show(config, out), show(config, out, final=True)

    assert "Validation results, not the test." in validation.text
    assert "Test results." not in validation.text
    assert "tiny, validation: BBQRec benchmark" in validation.text
    assert "Test results." in test.text
    assert "Validation results" not in test.text
    assert "careful is better than SASRec" in test.text
    assert "careful was the best of 3 rows on validation" in test.text
    assert "The highest mean here is that of lucky, which validation did not choose." in test.text


def test_a_control_is_shown_but_never_chosen(start: Callable[[BenchmarkConfig], Path]) -> None:
    rows = {"popularity": {"kind": "popularity"}, "SASRec": {}, "ours": {}}
    config = matrix("SASRec", rows={**rows, "control": {"kind": "shuffled"}})
    out = start(config)
    for key, share in zip(config.cells()[1:], (0.2, 0.6, 0.9), strict=True):
        put(config, out, key, validation=drawn(share, seed=len(key.row)))

    page = show(config, out)

    assert "ours is better than SASRec" in page.text
    assert "picked from 2 rows" in page.text
    assert "control" in page.text


def test_the_spread_over_seeds_is_set_beside_the_difference(
    start: Callable[[BenchmarkConfig], Path],
) -> None:
    config = matrix("SASRec", "ours", seeds=[0, 1])
    out = start(config)
    for key in config.cells():
        if key.row == "SASRec":
            put(config, out, key, validation=drawn(0.2 + 0.6 * key.seed, seed=key.seed))
        elif key == CellKey("shop", "ours", 0):
            put(config, out, key, validation=drawn(0.6, seed=7))

    text = show(config, out).text

    assert "Over seeds, the mean of SASRec varies by ±" in text
    assert "ours has one seed" in text
    assert "The difference is no larger than that." in text
    assert "Not made yet: ours (seed 1)" in text


def test_without_a_reference_or_without_others_nothing_is_compared(
    start: Callable[[BenchmarkConfig], Path],
) -> None:
    config = matrix("SASRec", "ours")
    out = start(config)

    page = show(config, out)

    assert "SASRec, the reference, is not made yet: nothing is compared." in page.text
    assert "against" not in page.text
    assert "against" not in (out / "tiny.md").read_text()
    lone = matrix("SASRec", rows={"SASRec": {}})
    put(lone, out, lone.cells()[0], validation=drawn(0.5))
    assert "Only SASRec, the reference, is made yet" in show(lone, out).text


def test_cold_targets_stand_apart_and_the_reference_has_no_difference(
    start: Callable[[BenchmarkConfig], Path],
) -> None:
    config = matrix("SASRec", "ours")
    out = start(config)
    for key in config.cells()[1:]:
        put(config, out, key, validation=drawn(0.5, seed=len(key.row)))

    page = show(config, out)

    labels = CellStore(out / "cells", "shop").cases()["validation"]["labels"]["target popularity"]
    headers = [a for tag, a in page.tags if tag == "th" and "apart" in a.get("class", "")]
    # Two metrics under two settings of the history filter.
    assert len(headers) == (4 if "0 (cold)" in labels else 0)
    tracks = [a["style"] for _, a in page.tags if a.get("class") == "track"]
    assert all("--steps" in style for style in tracks)
    num_slices = sum(
        len(x) for x in CellStore(out / "cells", "shop").cases()["validation"]["labels"].values()
    )
    assert len(tracks) == 3 * 4 + 2 * 4 + 3 * 4 * num_slices
