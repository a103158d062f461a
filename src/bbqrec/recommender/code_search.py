"""Writing semantic IDs level by level, many beams for each user (T5's decoder in a search).

The same function as `CodeDecoder`, in fewer and larger operations: for one user a product has
twenty rows, and calling it costs as much as its arithmetic. Beams are queries against one memory
per user.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.products import fixed, multiply_few
from bbqrec.recommender.code_decoder import CodeDecoder, DecoderLayer, KeysValues, visible
from bbqrec.recommender.code_embedding import CodeEmbedding
from bbqrec.recommender.transformer import NORM_EPSILON, Attention, AttentionBias
from bbqrec.semantic_ids import PAD_TOKEN


class Maps(NamedTuple):
    """The linear maps of one decoder layer, each with the gain of the norm before it.

    Args:
        own: to query, keys and values of the attention within the semantic ID.
        memory: to keys and values of the history.
    """

    own: Float[Tensor, "outputs dim"]
    own_output: Float[Tensor, "dim inner"]
    memory: Float[Tensor, "outputs dim"]
    query: Float[Tensor, "inner dim"]
    output: Float[Tensor, "dim inner"]
    feed_forward: Float[Tensor, "d_ff dim"]
    feed_forward_output: Float[Tensor, "dim d_ff"]

    @classmethod
    def of(cls, layer: DecoderLayer, dtype: torch.dtype) -> "Maps":
        """In `dtype` and in an order of their own, as copies."""

        def maps(*weights: Tensor, gain: Tensor | float = 1.0) -> Tensor:
            return fixed(*((weight.detach() * gain).to(dtype) for weight in weights))

        own, history, block = layer.self_attention, layer.cross_attention, layer.feed_forward
        gain = layer.self_attention_norm.weight.detach()
        return cls(
            maps(own.query.weight, own.key.weight, own.value.weight, gain=gain),
            maps(own.output.weight),
            maps(history.key.weight, history.value.weight),
            maps(history.query.weight, gain=layer.cross_attention_norm.weight.detach()),
            maps(history.output.weight),
            maps(block.inner.weight, gain=layer.feed_forward_norm.weight.detach()),
            maps(block.output.weight),
        )


class DecoderSession:
    """A search in progress: call `first` once, then `extend` once per further level.

    Args:
        places: encoded histories, one row per user however many beams follow.
        last_place: the last place of each history.
    """

    def __init__(
        self,
        decoder: CodeDecoder,
        embedding: CodeEmbedding,
        places: Float[Tensor, "batch place dim"],
        last_place: Int[Tensor, " batch"],
    ) -> None:
        self._decoder, self._embedding = decoder, embedding
        self._layers = [cast(DecoderLayer, layer) for layer in decoder.layers]
        self._maps = _maps(decoder, places.device)
        self._memory = [
            _remember(places, maps.memory, layer.cross_attention)
            for layer, maps in zip(self._layers, self._maps, strict=True)
        ]
        self._memory_bias = visible(places, last_place[:, None], 1)
        # (level, level, 1, head), so that a level's row is next to those of all heads.
        bias = decoder.position_bias(len(embedding.sizes))[0]
        self._own_bias = bias.permute(1, 2, 0)[:, :, None].contiguous()
        self._batch = len(places)
        # Of every layer the keys and values of each beam and its ancestors: (level, row, 2 inner).
        self._past: list[Tensor] = []
        self.level = -1  # whose codes were scored last

    def first(self) -> Float[Tensor, "batch code"]:
        """Log-probabilities of the first level's codes."""
        tokens = self._embedding.level_offsets.new_full((self._batch, 1), PAD_TOKEN)
        return self._step(tokens, None)[:, 0]

    def extend(
        self, parents: Int[Tensor, "batch beam"], codes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """Append `codes` to the previous beams `parents`; log-probabilities of the next codes."""
        tokens = codes + self._embedding.offsets[self.level]
        num_parents = self._past[0].shape[1] // self._batch
        first_row = torch.arange(self._batch, device=parents.device)[:, None] * num_parents
        return self._step(tokens, (parents + first_row).flatten())

    @torch.no_grad()
    def _step(
        self, tokens: Int[Tensor, "batch beam"], rows: Int[Tensor, " row"] | None
    ) -> Float[Tensor, "batch beam code"]:
        """One more level of every beam, which goes on from the beam before at `rows`."""
        self.level += 1
        x = self._embedding(tokens.flatten())
        for number, (layer, maps) in enumerate(zip(self._layers, self._maps, strict=True)):
            x.add_(multiply_few(self._look_back(_normed(x, maps), number, rows), maps.own_output))
            attention, memory = layer.cross_attention, self._memory[number]
            query = multiply_few(_normed(x, maps), maps.query).view(*tokens.shape, -1)
            mixed = attention.attend(query, memory.keys, memory.values, self._memory_bias)
            x.add_(multiply_few(mixed.flatten(0, 1), maps.output))
            inner = multiply_few(_normed(x, maps), maps.feed_forward).relu_()
            x.add_(multiply_few(inner, maps.feed_forward_output))
        hidden = self._decoder.norm(x).view(*tokens.shape, -1)
        return self._embedding.log_probabilities(hidden, self.level)

    def _look_back(
        self, normed: Float[Tensor, "row dim"], number: int, rows: Int[Tensor, " row"] | None
    ) -> Float[Tensor, "row inner"]:
        """Attention of each beam to itself and its ancestors: one query and a handful of keys.

        Products of whole rows, since a matrix product for each costs more in calls than in
        arithmetic.
        """
        own = multiply_few(normed, self._maps[number].own)
        inner = own.shape[1] // 3
        past = own.new_empty(self.level + 1, len(own), 2 * inner)
        past[-1] = own[:, inner:]
        if rows is None:
            self._past.append(past)
            return own[:, 2 * inner :]  # with nothing else to look at, all attention is there
        torch.index_select(self._past[number], 1, rows, out=past[:-1])
        self._past[number] = past
        bias = self._own_bias[self.level, : self.level + 1]
        keys, values = past.view(*past.shape[:2], 2, bias.shape[-1], -1).unbind(2)
        query = own[:, :inner].view(keys.shape[1:])
        weights = ((keys * query).sum(-1) + bias).softmax(0).to(own.dtype)
        return (values * weights[..., None]).sum(0).flatten(1)


def _normed(x: Float[Tensor, "row dim"], maps: Maps) -> Float[Tensor, "row dim"]:
    """As T5's norm, but for its gain, in the type of `maps`."""
    return F.rms_norm(x, x.shape[1:], eps=NORM_EPSILON).to(maps.own.dtype)


def _remember(
    places: Float[Tensor, "batch place dim"],
    memory: Float[Tensor, "outputs dim"],
    attention: Attention,
) -> KeysValues:
    """As `DecoderLayer.remember`."""
    rows = multiply_few(places.flatten(0, 1).to(memory.dtype), memory)
    split = rows.view(*places.shape[:2], 2, attention.num_heads, -1)
    keys, values = split.permute(2, 0, 3, 1, 4).contiguous().unbind()
    return KeysValues(keys, values)


def _maps(decoder: CodeDecoder, device: torch.device) -> list[Maps]:
    """The maps of all layers, made anew where the weights changed."""
    dtype = decoder.norm.weight.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    state = tuple((weight.data_ptr(), weight._version) for weight in decoder.parameters())
    found = decoder.remembered.get(dtype)
    if found is None or found[0] != state:
        layers = [Maps.of(cast(DecoderLayer, layer), dtype) for layer in decoder.layers]
        found = decoder.remembered[dtype] = state, layers
    return found[1]
