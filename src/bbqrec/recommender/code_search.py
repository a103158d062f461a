"""Writing semantic IDs level by level, many beams for each user (T5's decoder in a search).

The same function as `CodeDecoder`, in fewer and larger operations: for one user a product has
twenty rows, and calling it costs as much as its arithmetic. Beams are queries against one memory
per user, and where they are few, against the encoded places themselves (`PlaceMaps`).
"""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.products import multiply_few
from bbqrec.recommender.code_decoder import CodeDecoder, DecoderLayer, KeysValues, visible
from bbqrec.recommender.code_embedding import CodeEmbedding
from bbqrec.recommender.fixed_maps import CodeMaps, FeedForwardMaps, maps, normed
from bbqrec.recommender.transformer import Attention
from bbqrec.semantic_ids import PAD_TOKEN

MAX_WIDENING = 2  # of what a map makes, where beams compare with places


class LayerMaps(NamedTuple):
    """The linear maps of one decoder layer, each with the gain of the norm before it.

    Args:
        own: to query, keys and values of the attention within the semantic ID.
        memory: to keys and values of the history.
        places: None where `query` and `output` are much smaller.
    """

    own: Float[Tensor, "outputs dim"]
    own_output: Float[Tensor, "dim inner"]
    memory: Float[Tensor, "outputs dim"]
    query: Float[Tensor, "inner dim"]
    output: Float[Tensor, "dim inner"]
    places: "PlaceMaps | None"
    feed_forward: FeedForwardMaps

    @classmethod
    def of(cls, layer: DecoderLayer, dtype: torch.dtype) -> "LayerMaps":
        own, history = layer.self_attention, layer.cross_attention
        parts = own.query.weight, own.key.weight, own.value.weight
        return cls(
            maps(*parts, dtype=dtype, gain=layer.self_attention_norm.weight),
            maps(own.output.weight, dtype=dtype),
            maps(history.key.weight, history.value.weight, dtype=dtype),
            maps(history.query.weight, dtype=dtype, gain=layer.cross_attention_norm.weight),
            maps(history.output.weight, dtype=dtype),
            PlaceMaps.of(layer, dtype),
            FeedForwardMaps.of(layer.feed_forward_norm, layer.feed_forward, dtype),
        )


class PlaceMaps(NamedTuple):
    """Attention to the history without its keys and values.

    With k = K p and v = V p for a place p, q . k is (K'q) . p, and the mean of the v is V times the
    mean of the p. So a query may be carried to the places and what it finds there back, by one map
    for each head: no keys and values are made of the places, which all heads and layers share, but
    each row has `dim` numbers a head instead of `head_dim`.
    """

    query: Float[Tensor, "head_dims dim"]
    output: Float[Tensor, "dim head_dims"]

    @classmethod
    def of(cls, layer: DecoderLayer, dtype: torch.dtype) -> "PlaceMaps | None":
        attention, gain = layer.cross_attention, layer.cross_attention_norm.weight
        weights = (attention.query, attention.key, attention.value, attention.output)
        query, key, value, output = (part.weight.detach().double() for part in weights)
        heads, width = attention.num_heads, query.shape[1]
        if heads * width > MAX_WIDENING * len(query):
            return None
        query, key, value = (x.view(heads, -1, width) for x in (query * gain, key, value))
        back = output.view(width, heads, -1).transpose(0, 1) @ value  # (head, dim, dim)
        return cls(
            maps((key.transpose(1, 2) @ query).flatten(0, 1), dtype=dtype),
            maps(back.transpose(0, 1).flatten(1), dtype=dtype),
        )

    def is_less_work(self, memory: Float[Tensor, "outputs dim"], places: int, rows: int) -> bool:
        """Than to make keys and values of a user's places by `memory`, for so many rows."""
        inner, (wide, width) = len(memory) // 2, self.query.shape
        of_a_row = 2 * width * (wide - inner) + 2 * places * (wide - inner)
        return rows * of_a_row < places * width * len(memory)


class DecoderMaps(NamedTuple):
    """What a search reads of the weights in place of them."""

    layers: list[LayerMaps]
    codes: CodeMaps


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
        self._maps, self._codes = _maps(decoder, embedding)
        self._places = places.to(self._maps[0].query.dtype)
        self._memory: list[KeysValues] = []  # of each layer, made when first looked at
        self._places_bias = visible(places, last_place[:, None], 1)
        # (level, level, 1, head), so that a level's row is next to those of all heads.
        bias = decoder.position_bias(len(embedding.sizes))[0]
        self._own_bias = bias.permute(1, 2, 0)[:, :, None].contiguous()
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
            for number, each in enumerate(self._maps):
                own = multiply_few(normed(x, each.own.dtype), each.own)
                x.add_(multiply_few(self._look_back(own, number, rows), each.own_output))
                x.add_(self._look_at_history(x, number, tokens.shape[1]))
                x.add_(each.feed_forward.few(normed(x, each.query.dtype)))
            return self._codes.log_probabilities(x, self.level).view(*tokens.shape, -1)

    def _look_at_history(
        self, x: Float[Tensor, "row dim"], number: int, beams: int
    ) -> Float[Tensor, "row dim"]:
        """What a layer's attention to the history adds to each beam."""
        each, attention = self._maps[number], self._layers[number].cross_attention
        rows = normed(x, each.query.dtype)
        if each.places is not None and self._are_few(each.places, each.memory, beams):
            query = multiply_few(rows, each.places.query)
            query = query.view(self._batch, -1, x.shape[1])  # (batch, beam x head, dim)
            added = self._places_bias.added[:, 0].to(query.dtype)
            weights = torch.baddbmm(added, query, self._places.transpose(1, 2)).softmax(-1)
            mixed = torch.bmm(weights, self._places)
            return multiply_few(mixed.view(len(x), -1), each.places.output)
        if number == len(self._memory):
            self._memory.append(_remember(self._places, each.memory, attention))
        keys, values = self._memory[number]
        query = attention.split(multiply_few(rows, each.query).view(self._batch, beams, -1))
        mixed = attention.attend(query, keys, values, self._places_bias)
        return multiply_few(mixed.flatten(0, 1), each.output)

    def _are_few(self, maps: PlaceMaps, memory: Float[Tensor, "outputs dim"], beams: int) -> bool:
        """Whether looking at the places is less work than making keys and values of them."""
        if self.level == 0:
            return True
        levels = len(self._embedding.sizes) - 1
        return maps.is_less_work(memory, self._places.shape[1], levels * beams)

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
        rows = multiply_few(places.flatten(0, 1), memory)
    split = attention.split_parts(rows.view(*places.shape[:2], -1), 2)
    # The fused kernel reads them where they lie; each product of half precision would copy them.
    keys, values = split if split.dtype == torch.float32 else split.contiguous()
    return KeysValues(keys, values)


def _maps(decoder: CodeDecoder, embedding: CodeEmbedding) -> DecoderMaps:
    def make(dtype: torch.dtype) -> DecoderMaps:
        layers = [LayerMaps.of(cast(DecoderLayer, layer), dtype) for layer in decoder.layers]
        return DecoderMaps(layers, CodeMaps.of(decoder.norm, embedding))

    return decoder.kept.get([decoder, embedding], make)
