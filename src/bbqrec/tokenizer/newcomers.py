"""Semantic IDs and vectors for items that come after training, from the trained tokenizer alone."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bbqrec.errors import CorruptArtifactError, SemanticIdError
from bbqrec.features import Features, standardize_like
from bbqrec.tokenizer.assignment import explained_by, greedy_codes, join_parts
from bbqrec.tokenizer.behavior_bound import BehaviorBoundTokenizer, ItemContent
from bbqrec.tokenizer.collisions import place_newcomers
from bbqrec.tokenizer.config import TokenizerConfig
from bbqrec.tokenizer.rq_kmeans import centered_like
from bbqrec.tokenizer.rq_vae import RQVAE


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
    targets: Float[Tensor, "new level dim"]
    codebooks: list[Float[Tensor, "_ dim"]]
    item_vectors: dict[str, Tensor]


@torch.no_grad()
def tokenize_newcomers(
    config: TokenizerConfig,
    weights: Mapping[str, Tensor],
    catalog: list[Features],
    content: Mapping[str, NewContent],
    taken: Int[Tensor, "item level"],
) -> Newcomers:
    """Free semantic IDs for items that no training saw: their content speaks alone.

    Args:
        weights: the trained state that stage 1 wrote.
        catalog: the features it was trained on, by which new ones are scaled.
        content: modality -> vectors of the new items.
        taken: every semantic ID in use.

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
    wishes = {"bbqrec": _behavior_bound, "rq_kmeans": _rq_kmeans}
    wish = wishes.get(config.method, _rq_vae)(config, weights, chosen, content)
    codes = greedy_codes(wish.targets, wish.codebooks)
    codes = place_newcomers(taken, codes, wish.targets, wish.codebooks)
    quantized = explained_by(codes, wish.codebooks)[:, -1]
    return Newcomers(codes, {**wish.item_vectors, "quantized": quantized})


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
) -> _Wish:
    dims = {f.modality: f.dim for f in catalog}
    tokenizer = BehaviorBoundTokenizer(config, dims, len(catalog[0].vectors))
    _load(tokenizer, weights)
    is_present = [content[f.modality].is_present for f in catalog]
    num_new = len(is_present[0])
    if config.use_id:
        is_present.append(torch.zeros(num_new, dtype=torch.bool))
    streams = tokenizer(
        ItemContent(
            torch.zeros(num_new, dtype=torch.long),
            _standardized(catalog, content),
            torch.stack(is_present, 1),
        )
    )
    books = [[b.detach() for b in quantizer.codebooks] for quantizer in tokenizer.id_quantizers()]
    aligned = {
        f"aligned.{modality}": streams.vectors[:, stream]
        for stream, modality in enumerate(tokenizer.modalities)
    }
    targets, codebooks = join_parts(tokenizer.id_targets(streams), books)
    return _Wish(targets, codebooks, {"fused": streams.fused, **aligned})


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
