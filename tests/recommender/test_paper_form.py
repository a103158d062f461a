"""The paper's form is T5, weight for weight, and reads a history as tokens."""

import pytest
import torch
from hugging_face import build_trie, copy_weights, generate, random_t5
from small_catalogs import HISTORIES, LENGTHS, NARROW, random_model, random_tables

from bbqrec.decoding import PrefixIndex, beam_search
from bbqrec.recommender import RecommenderConfig, SimilarityConfig, build_recommender
from bbqrec.recommender.transformer import relative_position_bucket
from bbqrec.semantic_ids import EOS_TOKEN, SemanticIds

PLAIN = RecommenderConfig.paper(**NARROW, similarity=SimilarityConfig(enabled=False))


@pytest.mark.parametrize("max_history", [5, 30])
def test_logits_equal_those_of_hugging_face_t5(max_history: int) -> None:
    tables = random_tables()
    torch.manual_seed(7)
    oracle = random_t5(PLAIN, tables.semantic_ids.num_tokens)
    model = build_recommender(PLAIN, tables, {}).eval()
    copy_weights(oracle, model, PLAIN)
    items = HISTORIES.repeat(1, max_history // 5)
    items = items.sort(dim=1, descending=True).values  # the used places come first
    lengths = (items >= 0).sum(1)
    targets = torch.tensor([4, 0, 12, 33])

    logits = model(items, lengths, targets)

    tokens = model.history_tokens(items, lengths)
    last = (lengths * 3)[:, None]
    expected = oracle(
        input_ids=tokens,
        attention_mask=(torch.arange(tokens.shape[1]) <= last).long(),
        labels=tables.semantic_ids.tokens[targets],
    ).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beam_width", [2, 4, 6])
def test_the_search_finds_what_hugging_face_finds_in_the_same_order(beam_width: int) -> None:
    # Of a semantic ID that two items share T5 finds one, so every item has its own here.
    number = torch.randperm(6 * 5 * 7, generator=torch.Generator().manual_seed(0))[:40]
    codes = torch.stack([number // 35, number // 7 % 5, number % 7], 1)
    ids = SemanticIds(codes, (6, 5, 7))
    torch.manual_seed(11)
    oracle = random_t5(PLAIN, ids.num_tokens)
    model = build_recommender(PLAIN, random_tables()._replace(semantic_ids=ids), {}).eval()
    copy_weights(oracle, model, PLAIN)
    tokens = model.history_tokens(HISTORIES, LENGTHS)
    is_used = torch.arange(tokens.shape[1]) <= (LENGTHS * 3)[:, None]  # short ones are padded

    with torch.inference_mode():
        ranking = beam_search(
            model.begin(HISTORIES, LENGTHS), PrefixIndex.build(ids), beam_width=beam_width
        )

    expected, scores = generate(
        oracle, tokens, is_used, beam_width=beam_width, num_levels=3, trie=build_trie(ids)
    )
    assert ids.tokens[ranking.items].tolist() == expected.tolist()
    torch.testing.assert_close(ranking.scores, scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_position_buckets_are_those_of_t5(bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 301)

    buckets = relative_position_bucket(
        distance, bidirectional=bidirectional, num_buckets=32, max_distance=128
    )

    expected = T5Attention._relative_position_bucket(distance, bidirectional, 32, 128)
    assert torch.equal(buckets, expected)


def test_the_published_size_has_4_59_million_weights() -> None:
    ids = SemanticIds(torch.zeros(3, 4, dtype=torch.long), (256,) * 4)
    tables = random_tables()._replace(semantic_ids=ids, is_unseen=torch.zeros(3, dtype=torch.bool))
    config = RecommenderConfig.paper(similarity=SimilarityConfig(enabled=False))

    model = build_recommender(config, tables, {})

    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 4.59


def test_a_history_is_its_items_codes_and_an_end() -> None:
    model = random_model(PLAIN)
    codes = random_tables().semantic_ids.tokens

    tokens = model.history_tokens(HISTORIES, LENGTHS)

    assert tokens[1].tolist() == [*codes[5].tolist(), *codes[6].tolist(), EOS_TOKEN, *[0] * 9]
    assert tokens[3].tolist() == [EOS_TOKEN, *[0] * 15]
