"""Tables show every model, mark the best and survive odd model names."""

import re

import pytest
import torch
from rich.console import Console
from rich.table import Table
from small_datasets import random_dataset
from test_protocol import FixedScores

from bbqrec.errors import ConfigError
from bbqrec.evaluation import (
    Evaluation,
    evaluate,
    markdown_tables,
    overall_table,
    slice_table,
)
from bbqrec.recommender import fit_popularity


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    data = random_dataset(num_users=120, num_items=60, seed=0)
    worst = FixedScores(-torch.from_numpy(data.popularity()).float())
    models = {"pop [red]a|b[/red]": fit_popularity(data), "worst": worst}
    return evaluate(models, data.test, data, reference="worst")


def shown(table: Table) -> str:
    console = Console(width=200, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_terminal_table_shows_intervals_names_and_the_best_in_bold(
    evaluation: Evaluation,
) -> None:
    text = shown(overall_table(evaluation, "kept", metrics=("recall@10", "ndcg@10")))

    best = evaluation.models["pop [red]a|b[/red]"]["kept"].overall.metrics["ndcg@10"]
    assert "pop [red]a|b[/red]" in text
    interval = f"{best.mean:.4f} [{best.low:.4f}, {best.high:.4f}]".replace("0.", ".")
    assert f"\x1b[1m{interval}\x1b[0m" in text
    hits = evaluation.models["worst"]["kept"].overall.metrics["recall@10"]
    assert f"{hits.mean:.4f}".replace("0.", ".") in text
    assert f"{hits.low:.4f}, ".replace("0.", ".") not in text
    assert "ndcg@10 against worst" in text
    assert "recall@5" not in text


def test_the_terminal_table_fits_80_columns_with_every_number_on_one_line() -> None:
    data = random_dataset(num_users=120, num_items=60, seed=0)
    models = {name: fit_popularity(data) for name in ("popularity", "item-kNN", "BBQRec")}
    evaluation = evaluate(models, data.test, data, reference="item-kNN")
    console = Console(width=80)

    with console.capture() as capture:
        console.print(overall_table(evaluation, "filtered", metrics=("recall@10", "ndcg@10")))

    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert (
        sum(
            re.search(r"│ (popul|item-k|BBQ)\S+ +│ +\.\d{4} │ +\.\d{4} \[", x) is not None
            for x in lines
        )
        == 3
    )
    assert "…" not in capture.get()


def test_markdown_has_the_same_columns_in_every_row(evaluation: Evaluation) -> None:
    text = markdown_tables(evaluation)

    blocks = [b.splitlines() for b in text.split("\n\n") if b.startswith("|")]
    assert len(blocks) == 2 * (1 + 2 * 2)  # settings, overall and two metrics by two kinds
    for lines in blocks:
        widths = {line.replace("\\|", "").count("|") for line in lines}
        assert len(widths) == 1
        assert len(lines) == 2 + len(evaluation.models)
    found = [model["filtered"].overall.metrics["mrr@20"] for model in evaluation.models.values()]
    best = max(found, key=lambda interval: interval.mean)
    assert f"**{best.mean:.4f} [{best.low:.4f}, {best.high:.4f}]**" in text


def test_slices_say_how_many_users_they_hold(evaluation: Evaluation) -> None:
    text = shown(slice_table(evaluation, "filtered", "history length"))

    groups = evaluation.models["worst"]["filtered"].slices["history length"]
    assert sum(group.num_cases for group in groups.values()) == 120
    for label, group in groups.items():
        assert f"{label} ({group.num_cases})" in text


def test_a_column_that_was_not_measured_is_an_error(evaluation: Evaluation) -> None:
    with pytest.raises(ConfigError, match="ndcg@7 was not measured"):
        overall_table(evaluation, "kept", metrics=("ndcg@7",))
