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
from bbqrec.recommender.transformer import NORM_EPSILON, Attention
from bbqrec.semantic_ids import PAD_TOKEN

SPARE = 16  # columns


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
    feed_forward: Float[Tensor, "hidden dim"]
    feed_forward_output: Float[Tensor, "dim hidden"]

    @classmethod
    def of(cls, layer: DecoderLayer, dtype: torch.dtype) -> "Maps":
        """In `dtype` and in an order of their own, as copies."""

        def maps(*weights: Tensor, gain: Tensor | float = 1.0) -> Tensor:
            return fixed(*((weight.detach() * gain).to(dtype) for weight in weights))

        own, history, block = layer.self_attention, layer.cross_attention, layer.feed_forward
        # Rows 4,096 bytes apart share their places in the processor's caches; zeros keep them off.
        spare = SPARE if len(block.inner.weight) % 1024 == 0 else 0
        gain = layer.self_attention_norm.weight.detach()
        return cls(
            maps(own.query.weight, own.key.weight, own.value.weight, gain=gain),
            maps(own.output.weight),
            maps(history.key.weight, history.value.weight),
            maps(history.query.weight, gain=layer.cross_attention_norm.weight.detach()),
            maps(history.output.weight),
            maps(
                F.pad(block.inner.weight, (0, 0, 0, spare)),
                gain=layer.feed_forward_norm.weight.detach(),
            ),
            maps(F.pad(block.output.weight, (0, spare))),
        )


class Prepared(NamedTuple):
    """What a search reads of the weights in place of them.

    Args:
        scores: to the logits of all tokens, or of each level's codes, in full precision.
        made_of: weights and their addresses and versions, by which a change shows.
    """

    layers: list[Maps]
    scores: list[Float[Tensor, "token_or_code dim"]]
    made_of: list[tuple[Tensor, int, int]]

    @classmethod
    def of(cls, decoder: CodeDecoder, embedding: CodeEmbedding, dtype: torch.dtype) -> "Prepared":
        layers = [Maps.of(cast(DecoderLayer, layer), dtype) for layer in decoder.layers]
        table = embedding.weight.detach().float()
        table = table * (decoder.norm.weight.detach() * embedding.output_scale)
        parts = [table]
        if embedding.normalize == "level":
            levels = zip(embedding.offsets, embedding.sizes, strict=True)
            parts = [table[start : start + size] for start, size in levels]
        weights: list[Tensor] = [*decoder.parameters(), embedding.weight]
        made_of = [(weight, weight.data_ptr(), weight._version) for weight in weights]
        return cls(layers, [fixed(part) for part in parts], made_of)

    def is_current(self) -> bool:
        """Whether the weights are still the same; they are changed in place, never replaced."""
        return all(
            weight.data_ptr() == address and weight._version == version
            for weight, address, version in self.made_of
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
        prepared = _prepare(decoder, embedding, places.device)
        self._maps, self._scores = prepared.layers, prepared.scores
        self._memory = [
            _remember(places, maps.memory, layer.cross_attention)
            for layer, maps in zip(self._layers, self._maps, strict=True)
        ]
        self._memory_bias = visible(places, last_place[:, None], 1)
        # (level, level, 1, head), so that a level's row is next to those of all heads.
        bias = decoder.position_bias(len(embedding.sizes))[0]
        self._own_bias = bias.permute(1, 2, 0)[:, :, None].contiguous()
        self._epsilon = bias.new_tensor(NORM_EPSILON)
        self._batch = len(places)
        # Of every layer the keys and values of each beam and its ancestors: (level, row, 2 inner).
        self._past: list[Tensor] = []
        self._room: Tensor | None = None  # see `_space`
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
        with torch.autocast(x.device.type, enabled=False):  # the maps say what is rounded
            for number, (layer, maps) in enumerate(zip(self._layers, self._maps, strict=True)):
                own = multiply_few(self._normed(x, maps.own), maps.own)
                x.add_(multiply_few(self._look_back(own, number, rows), maps.own_output))
                query = multiply_few(self._normed(x, maps.query), maps.query)
                attention, memory = layer.cross_attention, self._memory[number]
                beams = query.view(*tokens.shape, -1)
                mixed = attention.attend(beams, memory.keys, memory.values, self._memory_bias)
                x.add_(multiply_few(mixed.flatten(0, 1), maps.output))
                inner = multiply_few(self._normed(x, maps.feed_forward), maps.feed_forward)
                x.add_(multiply_few(inner.relu_(), maps.feed_forward_output))
            return self._log_probabilities(x).view(*tokens.shape, -1)

    def _log_probabilities(self, x: Float[Tensor, "row dim"]) -> Float[Tensor, "row code"]:
        """As `CodeEmbedding.log_probabilities`."""
        is_of_level = self._embedding.normalize == "level"
        scores = self._scores[self.level if is_of_level else 0]
        found = multiply_few(self._normed(x, scores), scores).log_softmax(-1)
        if is_of_level:
            return found
        start, size = self._embedding.offsets[self.level], self._embedding.sizes[self.level]
        return found[:, start : start + size]

    def _normed(
        self, x: Float[Tensor, "row dim"], weight: Float[Tensor, "_ dim"]
    ) -> Float[Tensor, "row dim"]:
        """As T5's norm, but for its gain, in the type of `weight`.

        For so few rows `torch.rms_norm`, seven operations on a CPU, takes twice as long.
        """
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self._epsilon, norm, norm, value=1 / x.shape[1]).rsqrt_()
        return (x * scale).to(weight.dtype)

    def _look_back(
        self, own: Float[Tensor, "row outputs"], number: int, rows: Int[Tensor, " row"] | None
    ) -> Float[Tensor, "row inner"]:
        """Attention of each beam to itself and its ancestors: one query and a handful of keys.

        Products of whole rows, since a matrix product for each costs more in calls than in
        arithmetic.
        """
        inner = own.shape[1] // 3
        if rows is None:
            self._past.append(own[None, :, inner:])
            # With nothing else to look at, all attention is there.
            return own[:, 2 * inner :].contiguous()
        past = self._space(own[:, inner:], number)
        torch.index_select(self._past[number], 1, rows, out=past[:-1])
        past[-1] = own[:, inner:]
        self._past[number] = past
        bias = self._own_bias[self.level, : self.level + 1]
        keys, values = past.view(*past.shape[:2], 2, bias.shape[-1], -1).unbind(2)
        query = own[:, :inner].view(keys.shape[1:])
        weights = ((keys * query).sum(-1) + bias).softmax(0).to(own.dtype)[..., None]
        mixed: Tensor = weights[0] * values[0]
        for weight, value in zip(weights[1:], values[1:], strict=True):
            mixed.addcmul_(weight, value)
        return mixed.view(len(own), inner)

    def _space(
        self, own: Float[Tensor, "row keys_values"], number: int
    ) -> Float[Tensor, "level row keys_values"]:
        """Where a layer may write what its beams and their ancestors have.

        One tensor for all levels and layers, made when the number of beams is known. It has one
        part more than there are layers: each layer takes what the one before it has just left.
        """
        size = len(self._embedding.sizes) * own.numel()
        if self._room is None or self._room.shape[1] < size:
            self._room = own.new_empty(len(self._layers) + 1, size)
        part = self._room[(number - self.level) % len(self._room)]
        return part[: (self.level + 1) * own.numel()].view(self.level + 1, *own.shape)


def _remember(
    places: Float[Tensor, "batch place dim"],
    memory: Float[Tensor, "outputs dim"],
    attention: Attention,
) -> KeysValues:
    """As `DecoderLayer.remember`."""
    with torch.autocast(places.device.type, enabled=False):
        rows = multiply_few(places.flatten(0, 1).to(memory.dtype), memory)
    split = rows.view(*places.shape[:2], 2, attention.num_heads, -1)
    keys, values = split.permute(2, 0, 3, 1, 4).contiguous().unbind()
    return KeysValues(keys, values)


def _prepare(decoder: CodeDecoder, embedding: CodeEmbedding, device: torch.device) -> Prepared:
    """For the precision that `torch.autocast` says, made anew where the weights changed."""
    dtype = embedding.weight.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    found = decoder.prepared.get(dtype)
    if not (isinstance(found, Prepared) and found.is_current()):
        found = decoder.prepared[dtype] = Prepared.of(decoder, embedding, dtype)
    return found
