"""A new item that is the twin of an old one is read as the old one is."""

from pathlib import Path

import pytest
import torch

from bbqrec.bundle import RunFolder
from bbqrec.decoding import PrefixIndex, RankingConfig, make_ranker
from bbqrec.new_items import NewItems, Placed
from bbqrec.ranking import Histories
from bbqrec.recommend import Recommender
from bbqrec.semantic_ids import SemanticIds


def test_a_twin_has_the_content_and_the_neighbors_of_its_original(run: Path) -> None:
    folder = RunFolder(run)
    recommender = Recommender.from_pretrained(run)
    original, num_items = 4, recommender.dataset.num_items
    features = {f.modality: f for f in folder.features(folder.dataset())}
    vectors = {name: f.vectors[original] for name, f in features.items()}

    extended = NewItems(folder, recommender).extend([Placed("twin", "Twin", vectors)])

    catalog = extended.recommender.model.catalog
    for name, f in features.items():
        table = catalog.content[name]
        torch.testing.assert_close(table[-1], table[original], atol=1e-3, rtol=1e-3)
        found = catalog.neighbors()[name]
        assert found.items.shape[1] == num_items + 2
        row = found.items[0, original][found.buckets[0, original] < len(found.edges) + 1]
        assert num_items in row.tolist(), name
        assert f.dim >= table.shape[1]
    old = recommender.model.catalog.neighbors()["behavior"]
    new = catalog.neighbors()["behavior"]
    assert torch.equal(new.items[:, :num_items], old.items[:, :num_items])
    assert (new.buckets[:, num_items:] == len(new.edges) + 1).all()


def test_prefixes_that_no_item_had_are_added_to_the_tree(run: Path) -> None:
    folder = RunFolder(run)
    recommender = Recommender.from_pretrained(run)
    features = {f.modality: f for f in folder.features(folder.dataset())}
    posted = [
        Placed(f"new {n}", f"New {n}", {name: -f.vectors[n] for name, f in features.items()})
        for n in range(5)
    ]

    model = NewItems(folder, recommender).extend(posted).recommender.model

    old, new = recommender.model.decoder.level(1), model.decoder.level(1)
    assert len(new.own) > len(old.own)
    assert torch.equal(new.own[: len(old.own)], old.own)
    assert not new.own[len(old.own) :].any()
    assert not new.bias[len(old.bias) :].any()


def test_a_posted_item_is_added_to_the_index_and_nothing_is_built_anew(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(run)
    recommender = Recommender.from_pretrained(run)
    model, ids = recommender.model, recommender.semantic_ids
    ranking = RankingConfig(rank_by="generative", beam_width=10)
    generating = Recommender(recommender.dataset, ids, model, make_ranker(model, ids, ranking))
    features = {f.modality: f for f in folder.features(folder.dataset())}
    posted = [
        Placed(f"new {n}", f"New {n}", {name: -f.vectors[n] for name, f in features.items()})
        for n in range(3)
    ]
    maker = NewItems(folder, generating)
    maker.ranking = ranking  # type: ignore[misc]  # not that of the run
    built: list[SemanticIds] = []
    build = PrefixIndex.build
    monkeypatch.setattr(PrefixIndex, "build", lambda ids: built.append(ids) or build(ids))

    extended = maker.extend(posted).recommender

    assert not built
    anew = make_ranker(extended.model, extended.semantic_ids, ranking)
    assert built == [extended.semantic_ids]
    histories = Histories(torch.arange(12), torch.tensor([0, 3, 12, 12]))
    found = extended.ranker.rank(histories, 20, exclude_seen=True)
    expected = anew.rank(histories, 20, exclude_seen=True)
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.scores, expected.scores)
