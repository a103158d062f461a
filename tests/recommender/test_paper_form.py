"""The paper's form is T5, weight for weight, and reads a history as tokens."""

import pytest
import torch
from small_catalogs import HISTORIES, LENGTHS, NARROW, random_model, random_tables
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from bbqrec.recommender import RecommenderConfig, SimilarityConfig, build_recommender
from bbqrec.recommender.transformer import relative_position_bucket
from bbqrec.semantic_ids import EOS_TOKEN, SemanticIds

PLAIN = RecommenderConfig.paper(**NARROW, similarity=SimilarityConfig(enabled=False))
BLOCK = {"query": "q", "key": "k", "value": "v", "output": "o"}


def hugging_face_names(config: RecommenderConfig) -> dict[str, str]:
    """Where each of our weights is called what in T5ForConditionalGeneration."""
    names = {"code_embedding.weight": "shared.weight"}
    stacks = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    blocks = {
        "encoder": ["self_attention", "feed_forward"],
        "decoder": ["self_attention", "cross_attention", "feed_forward"],
    }
    theirs = {
        "self_attention": "SelfAttention",
        "cross_attention": "EncDecAttention",
        "feed_forward": "DenseReluDense",
    }
    for stack, num_layers in stacks.items():
        names[f"{stack}.norm.weight"] = f"{stack}.final_layer_norm.weight"
        bias = "position_bias" if stack == "encoder" else "decoder.position_bias"
        names[f"{bias}.table"] = (
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        )
        for layer in range(num_layers):
            for place, block in enumerate(blocks[stack]):
                ours = block if stack == "decoder" else block.replace("self_", "")
                source = f"{stack}.block.{layer}.layer.{place}"
                names[f"{stack}.layers.{layer}.{ours}_norm.weight"] = f"{source}.layer_norm.weight"
                parts = {"inner": "wi", "output": "wo"} if block == "feed_forward" else BLOCK
                for part, their_part in parts.items():
                    names[f"{stack}.layers.{layer}.{ours}.{part}.weight"] = (
                        f"{source}.{theirs[block]}.{their_part}.weight"
                    )
    return names


def copy_of(config: RecommenderConfig, num_tokens: int) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(7)
    oracle = T5ForConditionalGeneration(
        T5Config(
            vocab_size=num_tokens,
            d_model=config.d_model,
            d_kv=config.head_dim,
            d_ff=config.d_ff,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    ).eval()
    weights = oracle.state_dict()
    return oracle, {ours: weights[name] for ours, name in hugging_face_names(config).items()}


@pytest.mark.parametrize("max_history", [5, 30])
def test_logits_equal_those_of_hugging_face_t5(max_history: int) -> None:
    tables = random_tables()
    oracle, weights = copy_of(PLAIN, tables.semantic_ids.num_tokens)
    model = build_recommender(PLAIN, tables, {}).eval()
    missing = set(dict(model.named_parameters())) ^ set(weights)
    assert not missing
    model.load_state_dict(weights, strict=False)
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
