"""Semantic IDs and vectors for items that come after training, from the trained tokenizer alone."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bbqrec.errors import CorruptArtifactError, SemanticIdError
from bbqrec.features import Features, standardize, standardize_like
from bbqrec.tokenizer.assignment import explained_by, greedy_codes, join_parts
from bbqrec.tokenizer.behavior_bound import BehaviorBoundTokenizer, ItemContent
from bbqrec.tokenizer.collisions import place_newcomers
from bbqrec.tokenizer.config import TokenizerConfig
from bbqrec.tokenizer.kmeans import nearest
from bbqrec.tokenizer.rq_kmeans import centered_like
from bbqrec.tokenizer.rq_vae import RQVAE

MAX_ALIKE = 4096


class NewContent(NamedTuple):
    """One modality of some new items; rows that are not present are not read."""

    vectors: Float[Tensor, "new dim"]
    is_present: Bool[Tensor, " new"]


class Newcomers(NamedTuple):
    """What the tokenizer says of new items, as stage 1 said it of the catalog.

    Args:
        item_vectors: "fused" and "quantized" and, for bbqrec, "aligned.<modality>".
    """

    codes: Int[Tensor, "new level"]
    item_vectors: dict[str, Tensor]


class _Wish(NamedTuple):
    """
    Args:
        like: the catalog's item beside which each one belongs, -1 where its own vector says.
    """

    targets: Float[Tensor, "new level dim"]
    codebooks: list[Float[Tensor, "_ dim"]]
    item_vectors: dict[str, Tensor]
    like: Int[Tensor, " new"] | None = None


@torch.no_grad()
def tokenize_newcomers(
    config: TokenizerConfig,
    weights: Mapping[str, Tensor],
    catalog: list[Features],
    content: Mapping[str, NewContent],
    taken: Int[Tensor, "taken level"],
    is_seen: Bool[Tensor, " item"],
) -> Newcomers:
    """Free semantic IDs for items that no training saw: their content speaks alone.

    Where behavior is bound into the IDs, a newcomer begins as the seen item that is most like it by
    content, and takes the nearest last code that is free: by its own vector, which lacks all that
    behavior says, it would stand among codes that no item has.

    Args:
        weights: the trained state that stage 1 wrote.
        catalog: the features it was trained on, by which new ones are scaled.
        content: modality -> vectors of the new items.
        taken: every semantic ID in use, the catalog's first.
        is_seen: which items of the catalog training knew by behavior.

    Raises:
        SemanticIdError: the run's IDs were brought along, or no ID is left.
        CorruptArtifactError: the weights are not those of these settings.
    """
    if not weights:
        raise SemanticIdError(
            "the run's semantic IDs were made elsewhere, so there is no tokenizer to give a new "
            "item one; train with the run's own tokenizer, or again with the new items"
        )
    known = {f.modality: f for f in catalog}
    chosen = [known[name] for name in config.modalities or known]
    if config.method == "bbqrec":
        is_example = is_seen & (torch.arange(len(is_seen)) < len(taken))
        wish = _behavior_bound(config, weights, chosen, content, is_seen, is_example)
    elif config.method == "rq_kmeans":
        wish = _rq_kmeans(config, weights, chosen, content)
    else:
        wish = _rq_vae(config, weights, chosen, content)
    codes = greedy_codes(wish.targets, wish.codebooks)
    if wish.like is not None and (wish.like >= 0).any():
        beside = _beside(taken[wish.like], wish.targets, wish.codebooks)
        codes = torch.where((wish.like >= 0)[:, None], beside, codes)
    codes = place_newcomers(taken, codes, wish.targets, wish.codebooks)
    quantized = explained_by(codes, wish.codebooks)[:, -1]
    return Newcomers(codes, {**wish.item_vectors, "quantized": quantized})


def _beside(
    codes: Int[Tensor, "new level"],
    targets: Float[Tensor, "new level dim"],
    codebooks: list[Float[Tensor, "_ dim"]],
) -> Int[Tensor, "new level"]:
    """`codes` with the last one chosen anew."""
    explained = explained_by(codes, codebooks)[:, -1] - codebooks[-1][codes[:, -1]]
    last = nearest(targets[:, -1] - explained, codebooks[-1])
    return torch.cat([codes[:, :-1], last[:, None].to(codes.dtype)], 1)


def _standardized(catalog: list[Features], content: Mapping[str, NewContent]) -> dict[str, Tensor]:
    return {f.modality: standardize_like(f, *content[f.modality]) for f in catalog}


def _load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError:
        raise CorruptArtifactError(
            "the tokenizer's weights are not those of the run's settings; `bbqrec run --out RUN` "
            "brings the run up to date"
        ) from None
    module.eval()


def _behavior_bound(
    config: TokenizerConfig,
    weights: Mapping[str, Tensor],
    catalog: list[Features],
    content: Mapping[str, NewContent],
    is_seen: Bool[Tensor, " item"],
    is_example: Bool[Tensor, " item"],
) -> _Wish:
    dims = {f.modality: f.dim for f in catalog}
    tokenizer = BehaviorBoundTokenizer(config, dims, len(is_seen))
    _load(tokenizer, weights)
    has = torch.stack([content[f.modality].is_present for f in catalog], 1)  # (new, modality)
    absent = has.new_zeros(len(has), tokenizer.num_streams - len(catalog))
    items = torch.zeros(len(has), dtype=torch.long)
    new = ItemContent(items, _standardized(catalog, content), torch.cat([has, absent], 1))
    streams = tokenizer(new)
    targets, fused = tokenizer.id_targets(streams), streams.fused
    known = ItemContent(
        torch.arange(len(is_seen)),
        {f.modality: standardize(f) for f in catalog},
        torch.stack([*(f.is_present for f in catalog), is_seen][: tokenizer.num_streams], 1),
    )
    like = torch.full((len(has),), -1)
    for pattern in torch.unique(has, dim=0):
        of_kind = (has == pattern).all(1)
        found = _most_alike(tokenizer, known, pattern, is_example, fused[of_kind])
        if found is None:
            gaps = [x.sum(0) / max(1, len(x)) for x in _gaps(tokenizer, known, pattern)]
        else:
            like[of_kind] = found
            gaps = _gaps(tokenizer, known.take(found), pattern)
        targets[of_kind] += gaps[0]
        fused[of_kind] += gaps[1]
    aligned = {
        f"aligned.{modality}": streams.vectors[:, stream]
        for stream, modality in enumerate(tokenizer.modalities)
    }
    books = [[b.detach() for b in quantizer.codebooks] for quantizer in tokenizer.id_quantizers()]
    return _Wish(*join_parts(targets, books), {"fused": fused, **aligned}, like)


def _most_alike(
    tokenizer: BehaviorBoundTokenizer,
    known: ItemContent,
    pattern: Bool[Tensor, " modality"],
    is_example: Bool[Tensor, " item"],
    fused: Float[Tensor, "new dim"],
) -> Int[Tensor, " new"] | None:
    """The example nearest to each newcomer where both are read through these modalities alone.

    None where no example has them.
    """
    has = known.is_present[:, : len(pattern)]
    candidates = ((has | ~pattern).all(1) & is_example).nonzero()[:, 0]
    if not len(candidates) or not pattern.any():
        return None
    read = [
        tokenizer(_narrowed(known.take(rows), pattern)).fused
        for rows in torch.split(candidates, MAX_ALIKE)
    ]
    return candidates[nearest(fused, torch.cat(read))]


def _narrowed(content: ItemContent, pattern: Bool[Tensor, " modality"]) -> ItemContent:
    is_present = content.is_present & False
    is_present[:, : len(pattern)] = pattern
    return content._replace(is_present=is_present)


def _gaps(
    tokenizer: BehaviorBoundTokenizer, known: ItemContent, pattern: Bool[Tensor, " modality"]
) -> list[Tensor]:
    """How far known items lie from where they are read through some modalities alone.

    A mean over fewer streams lies elsewhere: without this, a text-only newcomer to a catalog with
    pictures is unlike everything. Of items that have these modalities: of all their targets
    (item, part, level, dim) and fused vectors (item, dim).
    """
    has = known.is_present[:, : len(pattern)]
    known = known.take((has | ~pattern).all(1).nonzero()[:MAX_ALIKE, 0])
    full, narrow = tokenizer(known), tokenizer(_narrowed(known, pattern))
    targets = tokenizer.id_targets(full) - tokenizer.id_targets(narrow)
    return [targets, full.fused - narrow.fused]


def _rq_vae(
    config: TokenizerConfig,
    weights: Mapping[str, Tensor],
    catalog: list[Features],
    content: Mapping[str, NewContent],
) -> _Wish:
    """Methods rq_vae and letter, which keeps its autoencoder under a name."""
    vectors = torch.cat(list(_standardized(catalog, content).values()), 1)
    model = RQVAE(config, vectors.shape[1])
    own = {k.removeprefix("rq_vae."): v for k, v in weights.items() if not k.startswith("groups.")}
    _load(model, own)
    latent = model(vectors)
    codebooks = [codebook.detach() for codebook in model.quantizer.codebooks]
    return _Wish(model.targets(latent), codebooks, {"fused": latent})


def _rq_kmeans(
    config: TokenizerConfig,
    weights: Mapping[str, Tensor],
    catalog: list[Features],
    content: Mapping[str, NewContent],
) -> _Wish:
    tables = [centered_like(f, *content[f.modality]) for f in catalog]
    latent = torch.cat(tables, 1) @ weights["components"]
    codebooks = [weights[f"codebooks.{level}"] for level in range(config.num_levels)]
    targets = latent[:, None].expand(-1, config.num_levels, -1)
    return _Wish(targets, codebooks, {"fused": latent})
