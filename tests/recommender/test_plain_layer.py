"""The plain encoder layer is what PyTorch's own attention and maps give."""

import torch
import torch.nn.functional as F
from small_catalogs import FORMS, random_model

from bbqrec.recommender.plain_layer import PlainLayer
from bbqrec.recommender.transformer import AttentionBias, Layout, hide

CONFIG = FORMS["plain"]


def test_a_plain_layer_is_scaled_attention_and_gelu() -> None:
    torch.manual_seed(0)
    layer = PlainLayer(CONFIG).eval()
    x = torch.randn(2 * 5, CONFIG.d_model)
    place = torch.arange(5)
    bias = AttentionBias(hide(place <= place[:, None], x)[None, None])

    found = layer(x, Layout.full(2, 5), bias)

    rows, attention = layer.attention_norm(x).view(2, 5, -1), layer.attention
    weights = [part.weight for part in (attention.query, attention.key, attention.value)]
    biases = [part.bias for part in (attention.query, attention.key, attention.value)]
    query, key, value = (
        F.linear(rows, weight, bias).view(2, 5, CONFIG.num_heads, -1).transpose(1, 2)
        for weight, bias in zip(weights, biases, strict=True)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    seen = x.view(2, 5, -1) + attention.output(mixed.transpose(1, 2).flatten(2))
    inner, _, _, outer = layer.feed_forward
    expected = seen + outer(F.gelu(inner(layer.feed_forward_norm(seen))))
    torch.testing.assert_close(found.view(2, 5, -1), expected)


def test_one_place_alone_is_the_same_place() -> None:
    torch.manual_seed(0)
    layer = PlainLayer(CONFIG).eval()
    x, layout = torch.randn(3 * 4, CONFIG.d_model), Layout.full(3, 4)
    place = torch.arange(4)
    bias = AttentionBias(hide(place <= place[:, None], x)[None, None])
    only = torch.tensor([3, 0, 2])

    found = layer(x, layout, bias, only)

    every = layer(x, layout, bias).view(3, 4, -1)
    torch.testing.assert_close(found, every[torch.arange(3), only])


def test_fixed_users_have_no_map_and_t5_layers_no_biases() -> None:
    plain = dict(random_model(CONFIG).named_parameters())
    t5 = dict(random_model(FORMS["default"]).named_parameters())
    assert not any("user_projection" in name for name in plain)
    assert any("user_projection" in name for name in t5)
    assert any(name.endswith("attention.query.bias") for name in plain)
    assert not any(name.endswith("attention.query.bias") for name in t5)
