"""The behavior-bound tokenizer: streams of an item, one shared residual codebook, its parts.

A *stream* is a vector that may describe an item: one per modality, then the item's own learnable
vector. An absent stream (missing modality, item unseen in training, item-vector dropout) is a
missing term of every sum and mean, never a zero that looks like content.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bbqrec.errors import ConfigError
from bbqrec.tokenizer.club import ClubPair
from bbqrec.tokenizer.config import TokenizerConfig
from bbqrec.tokenizer.encoders import AlignedEncoder, SequenceEncoder, SpecificEncoder, mlp
from bbqrec.tokenizer.residual_quantizer import Quantized, ResidualQuantizer


class ItemContent(NamedTuple):
    """What is known of some items; feature rows of absent modalities are never read.

    Args:
        vectors: modality -> standardized features.
        is_present: columns are the streams: modalities in order, then the item vector.
    """

    items: Int[Tensor, " batch"]
    vectors: Mapping[str, Tensor]
    is_present: Bool[Tensor, "batch stream"]

    def take(self, rows: Int[Tensor, " row"]) -> "ItemContent":
        """The given rows, in the given order."""
        vectors = {name: table[rows] for name, table in self.vectors.items()}
        return ItemContent(self.items[rows], vectors, self.is_present[rows])


class Streams(NamedTuple):
    """Streams of some items, zero where absent, and what they say together."""

    vectors: Float[Tensor, "batch stream dim"]
    is_present: Bool[Tensor, "batch stream"]
    fused: Float[Tensor, "batch dim"]


class QuantizedStreams(NamedTuple):
    """Every stream quantized and, as the last part, what the layout makes of them together.

    Args:
        runs: what each quantizer did, with the rows that count, for losses and upkeep.
    """

    codes: Int[Tensor, "batch part level"]
    sums: Float[Tensor, "batch part dim"]
    runs: list[tuple[Quantized, Bool[Tensor, " row"]]]


class BehaviorBoundTokenizer(nn.Module):
    """Encoders, item vectors, codebooks and the nets that the losses need.

    Args:
        dims: modality -> width of its features; its order is the order of the streams.
    """

    def __init__(self, config: TokenizerConfig, dims: dict[str, int], num_items: int) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(dims)
        self.num_streams = len(dims) + config.use_id
        dim = config.dim
        if config.layout == "id_last" and not (config.use_id and config.num_levels > 1):
            raise ConfigError("layout id_last needs use_id = true and at least two levels")
        if config.layout == "cascade" and config.num_levels < self.num_streams:
            raise ConfigError(
                f"layout cascade gives each stream a level: {self.num_streams} streams need "
                f"num_levels of at least that, but it is {config.num_levels}"
            )

        self.aligned = nn.ModuleDict(
            {m: AlignedEncoder(width, config.encoder_dims, dim) for m, width in dims.items()}
        )
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.gate = nn.Parameter(
            torch.zeros(self.num_streams), requires_grad=config.gate == "learned"
        )
        if config.use_id:
            self.item_vectors = nn.Embedding(num_items, dim)
        num_quantizers = 1 if config.shared_codebook else self.num_streams + 1
        self.quantizers = nn.ModuleList(
            ResidualQuantizer(config.codebook_sizes, dim) for _ in range(num_quantizers)
        )

        self.to_decoder = nn.ModuleDict({m: nn.Linear(dim, dim) for m in dims})
        decoder_input = dim + (config.specific_dim if config.behavior_aligned else 0)
        self.decoders = nn.ModuleDict(
            {m: mlp(decoder_input, *config.decoder_dims, width) for m, width in dims.items()}
        )
        if config.behavior_aligned:
            self.specific = nn.ModuleDict(
                {
                    m: SpecificEncoder(width, config.specific_encoder_dims, config.specific_dim)
                    for m, width in dims.items()
                }
            )
        if self.uses_club:
            self.clubs = nn.ModuleDict({m: ClubPair(dim, config.specific_dim) for m in dims})
            self.clubs.requires_grad_(False)  # fitted apart, by their own optimizer
        if config.w_s > 0:
            self.sequence_encoder = SequenceEncoder(
                dim,
                dim=config.sequence_dim,
                num_layers=config.sequence_layers,
                num_heads=config.sequence_heads,
                dropout=config.sequence_dropout,
                max_length=config.max_history,
            )

    @property
    def uses_club(self) -> bool:
        weights = self.config.w_mi + self.config.w_mi_aligned
        return self.config.behavior_aligned and weights > 0

    def forward(self, content: ItemContent) -> Streams:
        """Encode the streams of items and fuse those that are present."""
        is_present = content.is_present
        vectors = []
        for stream, modality in enumerate(self.modalities):
            is_there = is_present[:, stream]
            encoded = self.aligned[modality](content.vectors[modality][is_there])
            empty = encoded.new_zeros(len(is_there), encoded.shape[1])
            vectors.append(empty.index_put((is_there,), encoded))
        if self.config.use_id:
            item_vectors = self.norm(self.item_vectors(content.items.clamp(min=0)))
            is_present = self._drop_item_vectors(is_present)
            vectors.append(item_vectors * is_present[:, -1:])
        stacked = torch.stack(vectors, 1)  # (batch, stream, dim)
        return Streams(stacked, is_present, self._fuse(stacked, is_present))

    def decode(
        self,
        modality: str,
        specific: Float[Tensor, "batch specific"] | None,
        aligned: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, "batch out"]:
        """Rebuild features: the aligned part is narrow, so the specific one is needed too."""
        projected = self.to_decoder[modality](aligned)
        joined = projected if specific is None else torch.cat([specific, projected], -1)
        decoded: Tensor = self.decoders[modality](joined)
        return decoded

    def quantize(self, streams: Streams) -> QuantizedStreams:
        """Codes of every stream and of the layout's joint targets, from the shared codebook."""
        targets, is_present = self.parts(streams)
        batch, num_parts, num_levels, dim = targets.shape
        if self.config.shared_codebook:
            quantized = self.quantizers[0](targets.reshape(-1, num_levels, dim))
            runs = [(quantized, is_present.reshape(-1))]
            codes = quantized.codes.view(batch, num_parts, num_levels)
            sums = quantized.sums.view(batch, num_parts, dim)
        else:
            runs = [
                (quantizer(targets[:, part]), is_present[:, part])
                for part, quantizer in enumerate(self.all_quantizers())
            ]
            codes = torch.stack([quantized.codes for quantized, _ in runs], 1)
            sums = torch.stack([quantized.sums for quantized, _ in runs], 1)
        return QuantizedStreams(codes, sums, runs)

    def parts(
        self, streams: Streams
    ) -> tuple[Float[Tensor, "batch part level dim"], Bool[Tensor, "batch part"]]:
        """What is quantized: each stream at all levels, then the layout's joint targets."""
        num_levels = self.config.num_levels
        alone = streams.vectors[:, :, None].expand(-1, -1, num_levels, -1)
        targets = torch.cat([alone, self._joint_targets(streams)[:, None]], 1)
        is_anything = streams.is_present.any(1, keepdim=True)
        return targets, torch.cat([streams.is_present, is_anything], 1)

    def id_targets(self, streams: Streams) -> Float[Tensor, "batch part level dim"]:
        """What the semantic ID's parts approximate: one part, or one per stream.

        In layout `per_stream` the fused stream stands in for an absent one, so that all items'
        semantic IDs have the same length.
        """
        targets, is_present = self.parts(streams)
        if self.config.layout != "per_stream":
            return targets[:, -1:]
        is_there = is_present[:, :-1, None, None]
        return torch.where(is_there, targets[:, :-1], targets[:, -1:])

    def all_quantizers(self) -> list[ResidualQuantizer]:
        """The shared quantizer alone, or one per part of `parts`."""
        return [q for q in self.quantizers if isinstance(q, ResidualQuantizer)]

    def id_quantizers(self) -> list[ResidualQuantizer]:
        """The quantizer of each part of `id_targets`."""
        quantizers = self.all_quantizers()
        if self.config.layout != "per_stream":
            return quantizers[-1:]
        return (quantizers * self.num_streams)[: self.num_streams]

    def club(self, modality: str) -> ClubPair:
        """The nets that bound the information between a modality's two encoders."""
        club = self.clubs[modality]
        assert isinstance(club, ClubPair)
        return club

    def _drop_item_vectors(self, is_present: Bool[Tensor, "batch stream"]) -> Tensor:
        """Withhold item vectors at random from items that have other streams."""
        if not self.training or self.config.id_dropout == 0:
            return is_present
        drawn = torch.rand(len(is_present), device=is_present.device) < self.config.id_dropout
        is_kept = ~(drawn & is_present[:, :-1].any(1))
        return torch.cat([is_present[:, :-1], is_present[:, -1:] & is_kept[:, None]], 1)

    def _fuse(
        self, vectors: Float[Tensor, "batch stream dim"], is_present: Bool[Tensor, "batch stream"]
    ) -> Float[Tensor, "batch dim"]:
        """LN of the gated mean over present streams; zero where none is."""
        if not self.config.behavior_aligned:  # then behavior must not reach the encoders
            num_modalities = len(self.modalities)
            vectors = torch.cat(
                [vectors[:, :num_modalities].detach(), vectors[:, num_modalities:]], 1
            )
        weights = self.gate[: vectors.shape[1]].softmax(0) * is_present
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
        fused: Tensor = self.norm((weights[:, :, None] * vectors).sum(1))
        return fused

    def _joint_targets(self, streams: Streams) -> Float[Tensor, "batch level dim"]:
        num_levels = self.config.num_levels
        fused = streams.fused[:, None].expand(-1, num_levels, -1)
        if self.config.layout == "id_last":
            # The item vector enters the last residual only: a mistake in it spoils one code.
            content = self._fuse(streams.vectors[:, :-1], streams.is_present[:, :-1])
            early = content[:, None].expand(-1, num_levels - 1, -1)
            return torch.cat([early, (content + streams.vectors[:, -1])[:, None]], 1)
        if self.config.layout == "cascade":
            # Level l answers to stream l; the fused stream stands in where there is none.
            num_streams = self.num_streams
            is_there = streams.is_present[:, :, None]
            first = torch.where(is_there, streams.vectors, fused[:, :num_streams])
            return torch.cat([first, fused[:, num_streams:]], 1)
        return fused
