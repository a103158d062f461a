"""The report: everything in one file, nothing from strangers trusted, no number of its own."""

import base64
import io
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
import torch
from PIL import Image
from tiny_run import draw_tiny_shop, tiny_config

from bbqrec.bundle import RunFolder
from bbqrec.errors import CorruptArtifactError
from bbqrec.evaluation import Evaluation, Interval
from bbqrec.pipeline import run_stages
from bbqrec.recommend import Recommender
from bbqrec.report import learned, write_report
from bbqrec.report.buckets import neighbor_buckets, similarity_buckets
from bbqrec.report.codes import example_item, show_levels, show_wall
from bbqrec.report.curves import BOTTOM, HEIGHT, TOP, heat_table, training_charts
from bbqrec.report.metrics import (
    difference_panels,
    headline,
    metric_tables,
    nice_step,
    overall_panels,
    slice_panels,
    verdict,
)
from bbqrec.report.page import command
from bbqrec.report.pictures import MAX_TITLE, SIDE, Pictures
from bbqrec.report.template import duration, signed
from bbqrec.report.users import sample_users
from bbqrec.report.words import TellingWords
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import read_json, read_tensors, sha256_file, write_json, write_tensors

HOSTILE = '<script>alert("x")</script> & <img src=http://evil.example/x.png>'
BROKEN = 5


class Page(HTMLParser):
    """The tags of a document with their attributes, and its text."""

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

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A tiny run whose titles attack the page and some of whose pictures are no pictures."""
    directory = tmp_path_factory.mktemp("report")
    shop = draw_tiny_shop(directory / "shop")
    items = pl.read_parquet(shop / "items.parquet")
    items.with_columns(pl.col("title") + f" {HOSTILE}").write_parquet(shop / "items.parquet")
    images = pl.read_parquet(shop / "images.parquet")
    name = next(name for name, kind in images.schema.items() if kind == pl.Binary)
    content = [
        b"no picture" if row < BROKEN else bytes(picture)
        for row, picture in enumerate(images[name])
    ]
    images.with_columns(pl.Series(name, content, pl.Binary)).write_parquet(shop / "images.parquet")
    run = RunFolder(directory / "run")
    run_stages(run, tiny_config(training={"epochs": 2}), source=shop)
    return run


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Page:
    return Page((run.directory / "report.html").read_text())


def test_every_link_of_the_contents_leads_to_a_section_with_a_heading(page: Page) -> None:
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    sections = [a["id"] for tag, a in page.tags if tag == "section"]

    assert sections == ["result", "metrics", "codes", "training", "similarity", "users"]
    assert {link.removeprefix("#") for link in links} == set(sections)
    assert [tag for tag, _ in page.tags].count("h2") == len(sections)
    assert [tag for tag, _ in page.tags].count("table") == [tag for tag, _ in page.tags].count(
        "caption"
    )


def test_the_page_asks_nobody_for_anything(run: RunFolder, page: Page) -> None:
    html = (run.directory / "report.html").read_text()

    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("src"))
    assert all(link.startswith("#") for link in page.values("href"))
    assert not {"script", "link", "iframe", "object", "base", "form"} & {t for t, _ in page.tags}
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in " ".join(page.values("content"))


def test_hostile_titles_are_shown_as_they_are_written(run: RunFolder, page: Page) -> None:
    titles = set(run.dataset().titles)
    pictured = [a["alt"] for tag, a in page.tags if tag == "img" and a["alt"]]
    attributes = {name for _, values in page.tags for name in values}

    assert len(pictured) > 30
    assert set(pictured) <= titles
    assert all(HOSTILE in title for title in pictured)
    assert not {"onerror", "onload", "onclick"} & attributes
    assert any(HOSTILE in text for text in page.words)


def test_a_picture_is_a_small_jpeg_and_a_broken_one_a_card(run: RunFolder, page: Page) -> None:
    pictures = Pictures(run.folder("prepare"), run.dataset())
    items = pictures.want(range(run.dataset().num_items))

    pictures.load()

    assert sum(pictures.source(item) is None for item in items) >= BROKEN
    assert sum(pictures.source(item) is not None for item in items) > len(items) / 2
    for source in page.values("src"):
        content = base64.b64decode(source.partition(",")[2])
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "JPEG"
            assert max(image.size) == SIDE
    assert any(a.get("class") == "card" for _, a in page.tags)


def test_the_headline_is_the_measured_number(run: RunFolder, page: Page) -> None:
    overall = read_json(run.directory / "metrics.json")["test"]["models"]["BBQRec"]["filtered"][
        "overall"
    ]
    text = " ".join(page.words)

    for metric in ("ndcg@10", "recall@10"):
        assert f"{overall['metrics'][metric]['mean']:.3f}" in text
        difference = f"{overall['difference'][metric]['mean']:+.3f}".replace("-", "−")
        assert difference in text


def test_users_stand_where_the_evaluation_ranked_their_next_item(run: RunFolder) -> None:
    recommender = Recommender.from_pretrained(run.directory)
    dataset = recommender.dataset

    users = sample_users(run, recommender, Pictures(run.folder("prepare"), dataset))

    assert len(users) == 8
    for user in users:
        case = dataset.user_ids.index(user.user_id)
        row = int(np.flatnonzero(dataset.test.users == case)[0])
        assert user.target == dataset.test.targets[row]
        assert user.history == dataset.test.histories.row(row)[-6:].tolist()
        listed = user.recommended.index(user.target) + 1 if user.target in user.recommended else 0
        assert listed == (user.rank if user.rank <= 10 else 0)


def test_a_catalog_without_pictures_is_shown_in_words(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.directory, tmp_path / "run")
    (tmp_path / "run" / "data" / "images.parquet").unlink()

    write_report(RunFolder(tmp_path / "run"))

    page = Page((tmp_path / "run" / "report.html").read_text())
    assert "img" not in {tag for tag, _ in page.tags}
    assert "wordy" in [a.get("class") for tag, a in page.tags if tag == "body"]
    shown = {text.strip() for text in page.words}
    assert len(shown & set(run.dataset().titles)) > 30


def test_a_run_without_similarity_says_so(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.directory, tmp_path / "run")
    folder = tmp_path / "run" / "recommender"
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "similarity.json", {})
    manifest["sha256"]["similarity.json"] = sha256_file(folder / "similarity.json")
    write_json(folder / "manifest.json", manifest)

    write_report(RunFolder(tmp_path / "run"))

    page = Page((tmp_path / "run" / "report.html").read_text())
    assert not any("similarity bias" in label for label in page.values("aria-label"))
    assert any("switched off" in text for text in page.words)


def test_semantic_ids_that_were_brought_along_have_a_report(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.directory, tmp_path / "run")
    brought = RunFolder(tmp_path / "run")
    rows = {
        item_id: [f"<a_{max(number, 1) // 8}>", f"<b_{max(number, 1) % 8}>"]
        for number, item_id in enumerate(brought.dataset().item_ids)
    }
    path = tmp_path / "own.index.json"
    path.write_bytes(orjson.dumps(rows))
    config = tiny_config(training={"epochs": 1}).model_copy(update={"semantic_ids": str(path)})

    run_stages(brought, config, source=None)

    words = Page((tmp_path / "run" / "report.html").read_text()).words
    assert "Collisions left" in words
    assert "Neighbors kept" not in words


def test_other_metrics_take_the_place_of_the_usual_ones(run: RunFolder) -> None:
    values = read_json(run.directory / "metrics.json")["test"]
    keep = ("recall@5", "mrr@20")
    for by_setting in values["models"].values():
        for result in by_setting.values():
            for kind in ("metrics", "difference"):
                scores = result["overall"][kind]
                result["overall"][kind] = {name: scores[name] for name in keep if scores}
    evaluation = Evaluation.parse({**values, "main_metric": "mrr@20"}, source="here")

    lines = headline(evaluation)

    assert [line.metric for line in lines] == ["MRR@20"]
    assert [panel.title for panel in overall_panels(evaluation)] == ["MRR@20", "MRR@20"]


def test_differences_are_drawn_around_zero_and_scores_from_zero(run: RunFolder) -> None:
    values = read_json(run.directory / "metrics.json")["test"]
    evaluation = Evaluation.parse(values, source="here")

    panels = difference_panels(evaluation, highlighted="popularity")

    for panel in panels:
        assert [dot.is_highlighted for dot in panel.dots] == [
            dot.name == "popularity" for dot in panel.dots
        ]
        assert evaluation.reference not in [dot.name for dot in panel.dots]
        assert (panel.zero, "0") in panel.ticks
        for dot in panel.dots:
            assert (dot.left > panel.zero) == (dot.interval.mean > 0)
            assert 0 <= dot.low <= dot.left <= dot.low + dot.width <= 100 + 1e-6
    scores = [*overall_panels(evaluation), *slice_panels(evaluation)["history length"]]
    assert {panel.zero for panel in scores} == {0.0}


def test_users_who_are_all_in_one_slice_are_no_card_of_their_own(run: RunFolder) -> None:
    values = read_json(run.directory / "metrics.json")["test"]
    evaluation = Evaluation.parse(values, source="here")
    kinds = slice_panels(evaluation).keys()
    for by_setting in values["models"].values():
        for result in by_setting.values():
            groups = result["slices"]["target popularity"]
            result["slices"]["target popularity"] = dict(list(groups.items())[:1])

    lone = slice_panels(Evaluation.parse(values, source="here"))

    assert kinds - lone.keys() == {"target popularity"}


def test_an_oracle_is_never_the_best(run: RunFolder) -> None:
    values = read_json(run.directory / "metrics.json")["test"]
    models = values["models"]
    winner = max(
        models, key=lambda n: models[n]["filtered"]["overall"]["metrics"]["ndcg@10"]["mean"]
    )
    models["oracle"] = models[winner]

    table = metric_tables(Evaluation.parse(values, source="here"))[0]

    column = table.metrics.index("NDCG@10")
    assert [row.name for row in table.rows if row.cells[column].is_best] == [winner]


def test_buckets_of_likeness_are_named_by_their_borders(run: RunFolder, page: Page) -> None:
    weights = read_tensors(run.folder("train") / "model.safetensors")
    edges = weights["catalog.neighbor_edges.text"].exp()

    tables = {table.name: table for table in learned(run)["neighbors"]}

    labels = [label for label, _ in tables["text"].rows]
    borders = torch.tensor([float(label.rpartition(" ")[2]) for label in labels])
    assert [label.partition(" ")[0] for label in labels] == ["below"] + ["from"] * len(edges)
    torch.testing.assert_close(borders, torch.cat([edges[:1], edges]), rtol=0.05, atol=0)
    assert labels == [label for label, _ in tables["text, unseen items"].rows]
    assert set(labels) <= set(page.words)


def test_buckets_that_nothing_can_be_in_are_not_shown(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.directory, tmp_path / "run")
    path = tmp_path / "run" / "recommender" / "model.safetensors"
    weights = read_tensors(path)
    for name in ("catalog.edges.text", "catalog.neighbor_edges.text"):
        weights[name][2:5] = weights[name][2]  # two buckets are between nothing
    write_tensors(path, weights)

    before, after = learned(run), learned(RunFolder(tmp_path / "run"))

    for kind in ("heat_tables", "neighbors"):
        for whole, table in zip(before[kind], after[kind], strict=True):
            values = [[cell.value for cell in cells] for _, cells in whole.rows]
            if table.name.startswith("text"):
                del values[3:5]
            assert [[cell.value for cell in cells] for _, cells in table.rows] == values
            labels = [label for label, _ in table.rows]
            assert len(set(labels)) == len(labels)


def test_borders_of_buckets_have_as_many_digits_as_tell_them_apart() -> None:
    rows, labels = similarity_buckets(
        ["below", *"abc", "same item"], torch.tensor([0.12341, 0.12342, 0.5])
    )

    assert rows == [0, 1, 2, 3, 4]
    names = ["below 0.12341", "0.12341 to 0.12342", "0.12342 to 0.5", "above 0.5", "same item"]
    assert labels == names
    codes = [*(f"{number} shared codes" for number in range(3)), "same item"]
    assert similarity_buckets(codes, torch.tensor([0.5, 1.5])).labels == codes
    assert neighbor_buckets(4, torch.zeros(3)).rows == [0, 3]
    assert neighbor_buckets(3, None).labels == ["1, least alike", "2", "3, most alike"]


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-0.01, 0.03, "level"), (0, 0.1, "level")],
)
def test_a_difference_counts_only_where_its_interval_leaves_out_zero(
    low: float, high: float, word: str
) -> None:
    assert verdict(Interval(mean=(low + high) / 2, low=low, high=high)) == word


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifactError, match="missing"):
        write_report(RunFolder(tmp_path))

    assert not (tmp_path / "report.html").exists()


def test_walls_show_only_items_of_their_code(run: RunFolder) -> None:
    ids, dataset = run.semantic_ids(), run.dataset()
    pictures = Pictures(run.folder("prepare"), dataset)

    groups = show_wall(ids, dataset.titles, pictures)

    for group in [*groups, *(inner for outer in groups for inner in outer.inner)]:
        prefix = torch.tensor(group.prefix)
        members = (ids.codes[:, : len(prefix)] == prefix).all(1)
        assert group.size == int(members.sum())
        assert members[group.items].all()
        assert len(set(group.items)) == min(group.size, len(group.items))
    steps = example_item(ids, pictures)
    assert [step.size for step in steps] == sorted((s.size for s in steps), reverse=True)
    assert len({step.items[0] for step in steps}) == 1


def test_use_of_codes_is_counted(run: RunFolder) -> None:
    ids = run.semantic_ids()
    health = read_json(run.folder("tokenize") / "health.json")

    levels = show_levels(ids)

    assert [level.num_used for level in levels] == health["codes_used"]
    assert [level.perplexity for level in levels] == pytest.approx(health["perplexity"], abs=0.01)


def test_a_group_is_named_by_what_sets_it_apart_and_not_by_chance() -> None:
    generator = np.random.default_rng(0)
    texts = [f"the {generator.choice(['oak', 'elm', 'ash', 'fir'])} lamp" for _ in range(200)]
    tea = torch.arange(200) < 10
    texts[:10] = [f"the red tea {'cup' if place % 2 else 'tin'}" for place in range(10)]
    texts[10:14] = ["a red lamp"] * 4
    words = TellingWords([*texts, "42"])
    tea = torch.cat([tea, torch.tensor([False])])

    assert words.of(tea) == ["tea", "red", "cup", "tin"]
    assert words.of(tea, without=["tea", "cup"]) == ["red", "tin"]
    assert words.of(torch.arange(201) % 10 == 3) == []  # a blind draw has no name
    assert words.of(torch.arange(201) == 200) == []
    assert TellingWords(["1", "2"]).of(torch.tensor([True, False])) == []


@pytest.mark.parametrize("num_codes", [1, 3, 6, 7, 11, 64])
def test_any_number_of_codes_makes_a_wall(num_codes: int, run: RunFolder) -> None:
    codes = torch.stack([torch.arange(60) % num_codes, torch.arange(60)], 1)
    ids = SemanticIds(codes, (64, 64))

    groups = show_wall(ids, ["lamp"] * 60, Pictures(run.folder("prepare"), run.dataset()))

    assert len(groups) == len({group.prefix for group in groups})
    assert min(6, num_codes) <= len(groups) <= 10
    assert len(show_levels(ids)) == 2


def test_one_item_is_a_group_only_where_there_are_no_others(run: RunFolder) -> None:
    pictures = Pictures(run.folder("prepare"), run.dataset())
    first = torch.tensor([0] * 6 + [1] * 4 + list(range(2, 42)))
    second = torch.tensor([0, 0, 0, 1, 2, 3] + [0, 1, 2, 3] + [0] * 40)
    some = SemanticIds(torch.stack([first, second], 1), (64, 64))
    none = SemanticIds(torch.stack([torch.arange(50), second], 1), (64, 64))

    opened, single = show_wall(some, ["lamp"] * 50, pictures)
    alone = show_wall(none, ["lamp"] * 50, pictures)

    assert [(group.prefix, group.size) for group in opened.inner] == [((0, 0), 3)]
    assert opened.num_hidden == 3
    assert [group.size for group in single.inner] == [1] * 4
    assert len(alone) == 10


@pytest.mark.parametrize("losses", [[3.0], [5.0, 5.0, 5.0], [1e-7, 3e-7, 2e-7], [-4.0, 900.0]])
def test_a_curve_stays_within_its_axis(losses: list[float]) -> None:
    log = [{"epoch": epoch, "loss": loss, "step": 9} for epoch, loss in enumerate(losses)]

    (chart,) = training_charts(log, best_epoch=0)

    points = [tuple(map(float, p.split())) for p in chart.path.removeprefix("M").split("L")]
    assert len(points) == len(losses)
    assert chart.best == points[0]
    assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in points)
    assert 2 <= len(chart.y_ticks) <= 7
    order = np.argsort([y for _, y in points], kind="stable")
    assert np.array(losses)[order].tolist() == sorted(losses, reverse=True)


def test_validation_that_skips_epochs_is_drawn_where_it_was_measured() -> None:
    log: list[dict[str, float]] = [
        {"epoch": 0, "loss": 3.0},
        {"epoch": 1, "loss": 2.0, "ndcg@10": 0.1},
        {"epoch": 2, "loss": 1.0},
        {"epoch": 3, "loss": 0.5, "ndcg@10": 0.2},
    ]

    charts = training_charts(log, best_epoch=3)

    metric, loss = charts
    assert metric.title == "Validation NDCG@10"
    assert metric.path.split()[0].removeprefix("M") == loss.path.split("L")[1].split()[0]
    assert metric.best[0] == loss.best[0]


def test_heat_is_strongest_where_the_bias_is_largest() -> None:
    table = heat_table("text", torch.tensor([[0.5, -1.0], [0.0, 0.25]]), ["alike", "unlike"])

    assert [[cell.strength for cell in cells] for _, cells in table.rows] == [[50, 100], [0, 25]]
    zeros = heat_table("text", torch.zeros(1, 1), ["alike"])
    assert zeros.rows[0][1][0].strength == 0


@pytest.mark.parametrize("span", [3e-9, 0.07, 0.49, 1.0, 2.5, 7.0, 1234.0])
def test_axis_steps_are_round_and_few(span: float) -> None:
    step = nice_step(span, 4)

    mantissa = float(f"{step:e}".partition("e")[0])
    assert mantissa in (1, 2, 5)
    assert span / 4 <= step * (1 + 1e-9) < span  # no coarser than one step for the whole span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.12, "0.1 s"),
        (42.0, "42 s"),
        (59.7, "1 min 0 s"),
        (196.0, "3 min 16 s"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_durations_read_easily(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("ids", [["MUG-1", "CUP-2"], ["a b", "$(rm)"], ["1,2", "[x"], ["-k", "'"]])
def test_the_command_keeps_any_ids_apart(ids: list[str], tmp_path: Path) -> None:
    words = shlex.split(command(tmp_path / "my run", ids))

    assert words[:-1] == ["bbqrec", "recommend", str(tmp_path / "my run"), "--history"]
    history = words[-1]
    assert ids == (orjson.loads(history) if history.startswith("[") else history.split(","))


def test_a_number_that_rounds_to_nothing_has_no_sign() -> None:
    assert [signed(value, 2) for value in (0.126, -0.126, -0.001, 0.0)] == [
        "+0.13",
        "−0.13",
        "0.00",
        "0.00",
    ]


def test_a_long_title_is_cut(run: RunFolder) -> None:
    dataset = run.dataset()
    pictures = Pictures(run.folder("prepare"), dataset)
    dataset.titles[0] = "long\n title " * 500
    dataset.titles[1] = " \t "

    assert len(pictures.title(0)) == MAX_TITLE
    assert "\n" not in pictures.title(0)
    assert pictures.title(1) == dataset.item_ids[1]
