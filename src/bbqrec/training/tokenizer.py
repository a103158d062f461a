"""Stage 1: features and training behavior -> semantic IDs, by the method the settings name."""

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bbqrec.data import Dataset
from bbqrec.errors import FeatureError, SemanticIdError
from bbqrec.features import Features
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import sha256_json
from bbqrec.tokenizer import Assignment, TokenizerConfig, fit_rq_kmeans, health_table
from bbqrec.training.behavior_bound import BehaviorBoundRecipe
from bbqrec.training.letter import LetterRecipe
from bbqrec.training.loop import Recipe, fit
from bbqrec.training.rq_vae import RQVAERecipe
from bbqrec.training.schedule import LoopConfig

logger = logging.getLogger(__name__)


class FittedTokenizer(NamedTuple):
    """What stage 1 hands on.

    Args:
        item_vectors: "fused" and "quantized" and, for bbqrec, "aligned.<modality>" and
            "specific.<modality>", each (item, dim), zero for items without the modality. In
            layout per_stream "quantized" has the streams' vectors side by side.
        weights: the trained state, ready for safetensors.
        health: plain numbers and per-level lists, see `health_table`.
    """

    semantic_ids: SemanticIds
    item_vectors: dict[str, Tensor]
    weights: dict[str, Tensor]
    health: dict[str, Any]


def fit_tokenizer(
    features: list[Features],
    dataset: Dataset,
    config: TokenizerConfig,
    *,
    seed: int,
    device: str = "cpu",
    work_dir: Path | None = None,
) -> FittedTokenizer:
    """Give every item of the catalog its semantic ID; behavior is read from `dataset.train` only.

    Args:
        work_dir: where checkpoints go, from which an interrupted run resumes exactly.

    Raises:
        FeatureError: a modality has no features, or features are of another catalog.
        SemanticIdError: the catalog has more items than there are tuples of codes.
        DataError: method bbqrec, and training holds no two interactions of one user.
    """
    chosen = _choose(features, dataset, config)
    if dataset.num_items > math.prod(config.codebook_sizes) and config.layout != "per_stream":
        raise SemanticIdError(
            f"{dataset.num_items} items cannot have distinct semantic IDs with codebooks of "
            f"{config.codebook_sizes} codes; raise tokenizer.codebook_size or "
            "tokenizer.num_levels"
        )
    _warn_of_lone_items(dataset.num_items, config)
    torch.manual_seed(seed)
    if config.method == "rq_kmeans":
        assignment, vectors, weights = fit_rq_kmeans(chosen, config, seed=seed)
    else:
        assignment, vectors, weights = _train(
            chosen, dataset, config, seed=seed, device=torch.device(device), work_dir=work_dir
        )
    vectors["quantized"] = assignment.quantized()
    health = health_table(assignment, chosen, dataset, seed=seed)
    return FittedTokenizer(assignment.semantic_ids, vectors, weights, health)


def _warn_of_lone_items(num_items: int, config: TokenizerConfig) -> None:
    """Codes say that items are alike; of as many codes as items none says anything."""
    first = config.codebook_sizes[0]
    if 2 * first > num_items and num_items > 16:
        enough = 1 << max(2, (num_items // 8).bit_length() - 1)
        logger.warning(
            "%d first codes for %d items leave most items alone under theirs, so that branches of "
            "the tree group nothing; try --set tokenizer.codebook_size=%d",
            first,
            num_items,
            enough,
        )


def _train(
    features: list[Features],
    dataset: Dataset,
    config: TokenizerConfig,
    *,
    seed: int,
    device: torch.device,
    work_dir: Path | None,
) -> tuple[Assignment, dict[str, Tensor], dict[str, Tensor]]:
    recipe: BehaviorBoundRecipe | RQVAERecipe
    if config.method == "bbqrec":
        recipe = BehaviorBoundRecipe(features, dataset, config, seed=seed, device=device)
    elif config.method == "letter":
        recipe = LetterRecipe(features, dataset, config, seed=seed, device=device)
    else:
        recipe = RQVAERecipe(features, config, seed=seed, device=device)
    trained: Recipe[Any] = recipe
    fit(
        trained,
        LoopConfig(
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            precision=config.precision,
        ),
        device=device,
        work_dir=work_dir,
        identity={
            "config": config.model_dump(mode="json"),
            "dataset": dataset.fingerprint,
            "features": [sha256_json(f.identity) for f in features],
            "seed": seed,
        },
        description="training the tokenizer",
    )
    assignment, vectors = recipe.assign()
    return assignment, vectors, {k: v.cpu() for k, v in recipe.model.state_dict().items()}


def _choose(features: list[Features], dataset: Dataset, config: TokenizerConfig) -> list[Features]:
    """The modalities the settings name, in their order, checked against the catalog."""
    known = {f.modality: f for f in features}
    names = tuple(known) if config.modalities is None else config.modalities
    if not names:
        raise FeatureError("there are no features to make semantic IDs from; run `bbqrec encode`")
    for name in names:
        if name not in known:
            raise FeatureError(
                f"tokenizer.modalities names {name!r}, but there are features for "
                f"{', '.join(sorted(known)) or 'nothing'} only"
            )
        found = known[name]
        if len(found.vectors) != dataset.num_items:
            raise FeatureError(
                f"the {name} features have {len(found.vectors)} rows for {dataset.num_items} "
                "items; run `bbqrec encode` again"
            )
        if not found.is_present.any():
            raise FeatureError(f"no item has {name} features; leave {name} out")
        if not found.vectors[found.is_present].isfinite().all():
            raise FeatureError(f"the {name} features hold values that are not finite")
    return [known[name] for name in names]
