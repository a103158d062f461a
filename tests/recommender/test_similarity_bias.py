"""Likeness biases attention by bucket, and changes nothing before it has learned."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_catalogs import (
    FORMS,
    HISTORIES,
    LENGTHS,
    NUM_ITEMS,
    ONE_PASS,
    RAGGED,
    edges_of,
    random_histories,
    random_model,
    random_tables,
)

import bbqrec.recommender.similarity as similarity_module
from bbqrec.errors import ConfigError, FeatureError
from bbqrec.recommender import RecommenderConfig, SimilarityConfig, similarity_edges

CANDIDATES = torch.arange(NUM_ITEMS).expand(len(HISTORIES), -1)


def with_similarity(config: RecommenderConfig, **changes: object) -> RecommenderConfig:
    return config.model_copy(update={"similarity": SimilarityConfig(**changes)})


@pytest.mark.parametrize("source", ["features", "codes"])
@pytest.mark.parametrize("name", ["one_pass", "paper"])
def test_zero_tables_give_bit_equal_logits_to_the_plain_model(name: str, source: str) -> None:
    plain = random_model(with_similarity(FORMS[name], enabled=False))
    biased = random_model(with_similarity(FORMS[name], source=source))
    for table in biased.similarity_tables().values():
        torch.nn.init.zeros_(table)
    biased.load_state_dict(plain.state_dict(), strict=False)

    with torch.no_grad():
        scores = [m.score_items(HISTORIES, LENGTHS, CANDIDATES) for m in (plain, biased)]

    assert torch.equal(*scores)


@pytest.mark.parametrize("form", ["additive", "multiplicative"])
def test_a_fresh_model_starts_at_the_plain_one_and_learned_tables_leave_it(form: str) -> None:
    plain = random_model(with_similarity(ONE_PASS, enabled=False))
    biased = random_model(with_similarity(ONE_PASS, form=form))
    biased.load_state_dict(plain.state_dict(), strict=False)
    expected = plain.dense_scores(RAGGED)

    learned = biased.dense_scores(RAGGED)
    for table in biased.similarity_tables().values():
        torch.nn.init.zeros_(table)
    fresh = biased.dense_scores(RAGGED)

    torch.testing.assert_close(fresh, expected)
    assert (learned - expected)[:3].abs().amax(1).min() > 1e-3


def test_both_forms_compute_their_formula() -> None:
    attention = random_model(ONE_PASS).encoder.layers[0].attention
    query, key, value = torch.randn(3, 2, 4, 16).unbind(0)
    added, gain = torch.randn(2, 2, 2, 4, 4).unbind(0)
    seen = tuple(attention.split(x) for x in (query, key, value))

    mixed = attention.attend(*seen, similarity_module.AttentionBias(added, gain))

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(2, 4, 2, 8)

    logits = torch.einsum("bqhd,bkhd->bhqk", heads(query), heads(key)) * gain + added
    expected = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), heads(value)).flatten(2)
    torch.testing.assert_close(mixed, expected)
    ones = attention.attend(*seen, similarity_module.AttentionBias(added, torch.ones_like(gain)))
    fused = attention.attend(*seen, similarity_module.AttentionBias(added))
    torch.testing.assert_close(ones, fused)


@pytest.mark.parametrize("name", ["one_pass", "paper"])
def test_permuting_bucket_labels_with_the_table_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(FORMS[name])
    expected = model.score_items(HISTORIES, LENGTHS, CANDIDATES)
    plain_buckets = model.similarity.buckets
    order = {n: torch.randperm(len(t)) for n, t in model.similarity_tables().items()}
    with torch.no_grad():
        for n, table in model.similarity_tables().items():
            table.copy_(table[order[n].argsort()])

    monkeypatch.setattr(
        model.similarity,
        "buckets",
        lambda *a: {n: order[n][b] for n, b in plain_buckets(*a).items()},
    )
    scores = model.score_items(HISTORIES, LENGTHS, CANDIDATES)

    torch.testing.assert_close(scores, expected, atol=0, rtol=0)


def test_buckets_follow_the_definition() -> None:
    tables = random_tables()
    model = random_model(ONE_PASS, tables)
    edges = edges_of(ONE_PASS, tables)

    buckets = model.similarity.buckets(HISTORIES, model.catalog)

    labels = model.similarity_labels()
    for name, vectors in tables.similarity.items():
        is_present = tables.similarity_present[name]
        centered = vectors - vectors[is_present].mean(0)
        for row, items in enumerate(HISTORIES.tolist()):
            for p, a in enumerate(items):
                for q, b in enumerate(items):
                    found = labels[name][buckets[name][row, p, q]]
                    if a < 0 or b < 0:
                        assert found == "not an item"
                    elif a == b:
                        assert found == "same item"
                    elif not (is_present[a] and is_present[b]):
                        assert found == "modality missing"
                    else:
                        cosine = F.cosine_similarity(centered[a], centered[b], dim=0)
                        expected = int((edges[name] < cosine).sum())
                        assert found == labels[name][expected]


@pytest.mark.parametrize("source", ["features", "codes"])
def test_remembered_buckets_equal_those_found_on_the_way(source: str) -> None:
    model = random_model(with_similarity(ONE_PASS, source=source))
    remembered = model.similarity.buckets(HISTORIES, model.catalog)
    assert model.similarity.remember_pairs

    model.similarity.remember_pairs = False
    fresh = model.similarity.buckets(HISTORIES, model.catalog)

    assert all(torch.equal(remembered[name], fresh[name]) for name in fresh)


def test_remembered_buckets_follow_newly_loaded_weights() -> None:
    first, second = random_model(ONE_PASS), random_model(ONE_PASS, random_tables(seed=9))
    candidates = CANDIDATES[:, :5]
    first.score_items(HISTORIES, LENGTHS, candidates)  # fills what it remembers

    first.load_state_dict(second.state_dict())

    found = first.similarity.buckets(HISTORIES, first.catalog)
    expected = second.similarity.buckets(HISTORIES, second.catalog)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_text_of_one_item_is_compared_with_the_image_of_another() -> None:
    tables = random_tables()
    same_space = {name: vectors[:, :10] for name, vectors in tables.similarity.items()}
    tables = tables._replace(similarity=same_space)
    config = with_similarity(ONE_PASS, source="aligned", across=True)
    model = random_model(config, tables)

    buckets = model.similarity.buckets(HISTORIES, model.catalog)

    assert set(buckets) == {"text", "image", "text>image", "image>text"}
    present = tables.similarity_present
    units = {
        name: F.normalize(vectors - vectors[present[name]].mean(0), dim=-1)
        for name, vectors in same_space.items()
    }
    a, b = next(
        (p, q)
        for p in range(5)
        for q in range(5)
        if HISTORIES[0, p] != HISTORIES[0, q]
        and present["text"][HISTORIES[0, p]]
        and present["image"][HISTORIES[0, q]]
    )
    cosine = units["text"][HISTORIES[0, a]] @ units["image"][HISTORIES[0, b]]
    expected = int((edges_of(config, tables)["text>image"] < cosine).sum())
    assert buckets["text>image"][0, a, b] == expected
    with pytest.raises(ConfigError, match="across"):
        SimilarityConfig.parse({"across": True})


def test_only_the_named_modalities_are_compared() -> None:
    config = with_similarity(ONE_PASS, modalities=("image",))
    everything = random_model(ONE_PASS)

    model = random_model(config)

    assert set(everything.similarity_tables()) == {"text", "image"}
    assert set(model.similarity_tables()) == {"image"}
    found = model.similarity.buckets(HISTORIES, model.catalog)
    expected = everything.similarity.buckets(HISTORIES, everything.catalog)
    assert torch.equal(found["image"], expected["image"])
    with pytest.raises(FeatureError, match="'smell', but what is compared is text, image"):
        random_model(with_similarity(ONE_PASS, modalities=("smell",)))


def test_shared_codes_count_the_common_prefix() -> None:
    codes = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 5, 3], [0, 2, 3]])

    shared = similarity_module.shared_codes(codes, codes)

    assert shared.tolist() == [[3, 2, 1, 0], [2, 3, 1, 0], [1, 1, 3, 0], [0, 0, 0, 3]]


def test_pairs_of_training_histories_fill_all_buckets_alike() -> None:
    tables = random_tables()
    config = with_similarity(ONE_PASS, num_buckets=4)
    items, offsets = random_histories()

    edges = edges_of(config, tables)

    pairs = [
        (a, b)
        for start, end in pairwise(offsets)
        for i, a in enumerate(items[start:end])
        for b in items[start : start + i]
        if a != b
    ]
    is_present = tables.similarity_present["text"]
    centered = tables.similarity["text"] - tables.similarity["text"][is_present].mean(0)
    unit = F.normalize(centered, dim=-1)
    values = torch.tensor([unit[a] @ unit[b] for a, b in pairs if is_present[a] and is_present[b]])
    shares = np.bincount(torch.bucketize(values, edges["text"]), minlength=4) / len(values)
    assert np.abs(shares - 0.25).max() < 0.1
    assert torch.equal(edges["text"], edges_of(config, tables)["text"])


def test_without_pairs_in_any_history_the_catalog_gives_the_edges(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lonely = np.arange(NUM_ITEMS, dtype=np.int32), np.arange(NUM_ITEMS + 1)

    edges = similarity_edges(random_tables(), *lonely, ONE_PASS, torch.Generator().manual_seed(0))

    assert "drawing from the catalog" in caplog.text
    assert (edges["text"].diff() > 0).all()
    assert edges["text"][0] < 0 < edges["text"][-1]
