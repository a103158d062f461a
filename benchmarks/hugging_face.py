"""The baseline: T5 of Hugging Face with our weights, searching with `prefix_allowed_tokens_fn`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from bbqrec.recommender import RecommenderConfig, SequenceModel
from bbqrec.semantic_ids import SemanticIds

Trie = dict[int, Any]
PARTS = {"query": "q", "key": "k", "value": "v", "output": "o"}


def t5_names(config: RecommenderConfig) -> dict[str, str]:
    """Where each weight of the form `paper` is called what in T5ForConditionalGeneration."""
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
                parts = {"inner": "wi", "output": "wo"} if block == "feed_forward" else PARTS
                for part, their_part in parts.items():
                    names[f"{stack}.layers.{layer}.{ours}.{part}.weight"] = (
                        f"{source}.{theirs[block]}.{their_part}.weight"
                    )
    return names


def random_t5(config: RecommenderConfig, num_tokens: int) -> T5ForConditionalGeneration:
    """T5 of the shape of `config`, with weights of its own."""
    sizes = T5Config(
        vocab_size=num_tokens,
        d_model=config.d_model,
        d_kv=config.head_dim,
        d_ff=config.d_ff,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        decoder_start_token_id=0,
        pad_token_id=0,
        dropout_rate=config.dropout,
    )
    return T5ForConditionalGeneration(sizes).eval()


def copy_weights(source: T5ForConditionalGeneration, model: SequenceModel, config: Any) -> None:
    """Give `model`, of the form `paper` without similarity bias, the weights of `source`."""
    weights = source.state_dict()
    ours = {name: weights[theirs] for name, theirs in t5_names(config).items()}
    assert not set(dict(model.named_parameters())) ^ set(ours)
    model.load_state_dict(ours, strict=False)


def build_trie(ids: SemanticIds) -> Trie:
    """Dictionaries of tokens, level by level, as most re-implementations of TIGER have it."""
    root: Trie = {}
    for tokens in ids.tokens.tolist():
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
    return root


def allowed_by(trie: Trie) -> Callable[[int, Tensor], list[int]]:
    """What `generate` asks before every step, once for each beam."""

    def allowed(_: int, prefix: Tensor) -> list[int]:
        node = trie
        for token in prefix[1:].tolist():
            node = node.get(token, {})
        return list(node)

    return allowed


@torch.inference_mode()
def generate(
    t5: T5ForConditionalGeneration,
    tokens: Tensor,
    is_used: Tensor,
    *,
    beam_width: int,
    num_levels: int,
    trie: Trie | None,
) -> tuple[Tensor, Tensor]:
    """The best `beam_width` semantic IDs, as tokens (batch, beam, level), and their scores."""
    found = t5.generate(
        input_ids=tokens,
        attention_mask=is_used.long(),
        num_beams=beam_width,
        num_return_sequences=beam_width,
        max_new_tokens=num_levels,
        min_new_tokens=num_levels,
        length_penalty=0.0,
        do_sample=False,
        prefix_allowed_tokens_fn=None if trie is None else allowed_by(trie),
        return_dict_in_generate=True,
        output_scores=True,
    )
    shape = (len(tokens), beam_width)
    return found.sequences[:, 1:].view(*shape, num_levels), found.sequences_scores.view(shape)
