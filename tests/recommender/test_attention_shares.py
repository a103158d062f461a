"""Shares of attention equal a softmax written out by hand, head by head and place by place."""

import math

import pytest
import torch
from small_catalogs import LIGHT, ONE_PASS, PAPER, random_model
from torch import Tensor

from bbqrec.recommender import (
    OnePassRecommender,
    PaperRecommender,
    RecommenderConfig,
    SequenceModel,
    SimilarityConfig,
    attention_shares,
)
from bbqrec.recommender.transformer import AttentionBias, Layout, relative_position_bucket

HISTORY = [3, 7, 1, 7, 36, 20]
CANDIDATES = torch.tensor([5, 20, 38])
SIMILARITIES = {
    "additive": SimilarityConfig(),
    "multiplicative": SimilarityConfig(form="multiplicative"),
    "codes": SimilarityConfig(source="codes"),
    "off": SimilarityConfig(enabled=False),
}


def likeness_bias(model: SequenceModel, name: str, a: int, b: int) -> list[float]:
    """The table's entry per head for two places of the history, -1 for none; found by hand."""
    catalog, table = model.catalog, model.similarity.tables[name]
    edges = catalog.edges[name].tolist()
    if a < 0 or b < 0:
        return table[len(edges) + 2].tolist()
    if a == b:
        return table[len(edges) + 1].tolist()
    if name == "shared_codes":
        pairs = zip(catalog.codes[a].tolist(), catalog.codes[b].tolist(), strict=True)
        likeness = 0.0
        for left, right in pairs:
            if left != right:
                break
            likeness += 1
    else:
        present = catalog.similarity_present[name]
        if not (present[a] and present[b]):
            return table[len(edges) + 3].tolist()
        likeness = float(catalog.similarity[name][a] @ catalog.similarity[name][b])
    return table[sum(edge < likeness for edge in edges)].tolist()


def logit(
    model: SequenceModel, head: int, query: Tensor, key: Tensor, distance: int, bias: float
) -> float:
    """gain * query . key + position, as the transformer has it."""
    config_positions = model.position_bias
    bucket = relative_position_bucket(
        torch.tensor(distance),
        bidirectional=config_positions.bidirectional,
        num_buckets=len(config_positions.table),
        max_distance=config_positions.max_distance,
    )
    product = sum(x * y for x, y in zip(query.tolist(), key.tolist(), strict=True))
    position = float(config_positions.table[bucket, head])
    if model.similarity is not None and model.similarity.is_multiplicative:
        return (1 + bias) * product + position
    return product + position + bias


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(x - max(logits)) for x in logits)
    return [math.exp(x - max(logits)) / total for x in logits]


def heads_of(model: SequenceModel, linear: torch.nn.Linear, x: Tensor) -> Tensor:
    """(place, head, head_dim)"""
    num_heads = model.encoder.layers[0].attention.num_heads
    return (x @ linear.weight.T).view(len(x), num_heads, -1)


def names(model: SequenceModel) -> list[str]:
    return [] if model.similarity is None else list(model.similarity.names)


@pytest.mark.parametrize("similarity", SIMILARITIES.values(), ids=SIMILARITIES)
@pytest.mark.parametrize("config", [ONE_PASS, LIGHT], ids=["transformer", "light"])
@torch.no_grad()
def test_the_users_state_attends_as_the_last_layer_does(
    config: RecommenderConfig, similarity: SimilarityConfig
) -> None:
    model = random_model(config.model_copy(update={"similarity": similarity}))
    assert isinstance(model, OnePassRecommender)
    placed = [-1, *HISTORY]

    found = attention_shares(model, torch.tensor([HISTORY]), CANDIDATES)

    items = torch.tensor(HISTORY)
    vectors = model.item_vectors(
        items, model.catalog, model.code_embedding.weight, model.catalog.is_unseen
    )
    x = torch.cat([model.start[None], vectors]) * model.code_embedding.input_scale
    layout, bias = Layout.full(1, len(placed)), model._bias(torch.tensor([placed]))
    *before, last = model.encoder.layers
    for layer in before:
        x = layer(x, layout, bias)
    normed = last.attention_norm(x)
    queries = heads_of(model, last.attention.query, normed)
    keys = heads_of(model, last.attention.key, normed)
    shares = torch.zeros(len(placed))
    for head in range(queries.shape[1]):
        logits = []
        for place, item in enumerate(placed):
            added = sum(likeness_bias(model, n, placed[-1], item)[head] for n in names(model))
            distance = place - (len(placed) - 1)
            logits.append(logit(model, head, queries[-1, head], keys[place, head], distance, added))
        shares += torch.tensor(softmax(logits)) / queries.shape[1]
    torch.testing.assert_close(found.items, shares[1:].expand(3, -1), atol=1e-5, rtol=1e-4)
    assert found.similarity.keys() == set(names(model))
    for name, values in found.similarity.items():
        for place, item in enumerate(HISTORY, start=1):
            per_head = likeness_bias(model, name, placed[-1], item)
            if similarity.form == "multiplicative":
                per_head = [
                    value * float(queries[-1, head] @ keys[place, head])
                    for head, value in enumerate(per_head)
                ]
            mean = sum(per_head) / len(per_head)
            assert float(values[place - 1]) == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("similarity", SIMILARITIES.values(), ids=SIMILARITIES)
@torch.no_grad()
def test_in_the_papers_form_the_decoder_attends_while_it_writes(
    similarity: SimilarityConfig,
) -> None:
    model = random_model(PAPER.model_copy(update={"similarity": similarity}))
    assert isinstance(model, PaperRecommender)
    levels = model.catalog.num_levels
    items = torch.tensor([HISTORY])

    found = attention_shares(model, items, CANDIDATES)

    places = model.read(items, torch.tensor([len(HISTORY)])).places  # (1, place, dim)
    *before, last = model.decoder.layers
    keys = heads_of(model, last.cross_attention.key, places[0])
    for row, candidate in enumerate(CANDIDATES.tolist()):
        embedding = model.code_embedding
        x = embedding(embedding.shifted(model.catalog.tokens[[candidate]]))  # (1, level, dim)
        level = torch.arange(levels)
        hidden = torch.zeros(levels, levels).masked_fill(level > level[:, None], -torch.inf)
        own = AttentionBias(model.decoder.position_bias(levels) + hidden)
        free = AttentionBias(torch.zeros(1, 1, 1, 1))
        for layer in before:
            x = layer(x, own, layer.remember(places), free, Layout.full(1, 1))
        normed = last.self_attention_norm(x)
        attention = last.self_attention
        key, value = (attention.split(m(normed)) for m in (attention.key, attention.value))
        x = x + attention.output(
            attention.attend(attention.split(attention.query(normed)), key, value, own)
        )
        queries = heads_of(model, last.cross_attention.query, last.cross_attention_norm(x)[0])
        shares = torch.zeros(len(HISTORY) * levels + 1)
        for written in range(levels):
            for head in range(queries.shape[1]):
                logits = [float(queries[written, head] @ key[head]) for key in keys]
                shares += torch.tensor(softmax(logits)) / (levels * queries.shape[1])
        expected = [shares[p * levels : (p + 1) * levels].sum() for p in range(len(HISTORY))]
        torch.testing.assert_close(found.items[row], torch.stack(expected), atol=1e-5, rtol=1e-4)
    if similarity.form == "additive":
        for name, values in found.similarity.items():
            for place, item in enumerate(HISTORY):
                per_head = likeness_bias(model, name, HISTORY[-1], item)
                mean = sum(per_head) / len(per_head)
                assert float(values[place]) == pytest.approx(mean, abs=1e-4)


@torch.no_grad()
def test_in_the_papers_form_multiplicative_likeness_is_a_mean_over_pairs_of_codes() -> None:
    model = random_model(
        PAPER.model_copy(update={"similarity": SimilarityConfig(form="multiplicative")})
    )
    items, levels = torch.tensor([HISTORY]), model.catalog.num_levels
    attention, seen = model.encoder.layers[-1].attention, {}
    hooks = [
        part.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name, part in (("query", attention.query), ("key", attention.key))
    ]
    found = attention_shares(model, items, CANDIDATES)
    for hook in hooks:
        hook.remove()
    num_heads = attention.num_heads
    query, key = (seen[name].view(-1, num_heads, 8) for name in ("query", "key"))
    latest = (len(HISTORY) - 1) * levels

    for name, values in found.similarity.items():
        for place, item in enumerate(HISTORY):
            entries = likeness_bias(model, name, HISTORY[-1], item)
            added = [
                entries[head] * float(query[latest + a, head] @ key[place * levels + b, head])
                for head in range(num_heads)
                for a in range(levels)
                for b in range(levels)
            ]
            assert float(values[place]) == pytest.approx(sum(added) / len(added), abs=1e-3)
