"""A small shop and settings that finish in seconds, for tests of whole runs."""

from pathlib import Path
from typing import Any

from bbqrec.data import draw_shop
from bbqrec.run_config import RunConfig

TINY: dict[str, Any] = {
    "tokenizer": {
        "num_levels": 3,
        "codebook_size": 8,
        "dim": 8,
        "encoder_dims": [16],
        "specific_encoder_dims": [16],
        "decoder_dims": [16],
        "epochs": 4,
        "unquantized_epochs": 2,
        "batch_size": 64,
        "catalog_draws": 32,
    },
    "recommender": {"d_model": 16, "head_dim": 8, "d_ff": 16, "max_history": 10},
    "training": {"epochs": 3, "batch_size": 32, "validation_users": 50},
    "evaluation": {"num_bootstrap": 50},
}
GENERATES: dict[str, Any] = {  # for `tiny_config`: found on a walk down the tree
    "recommender": {"decoder": "tree"},
    "ranking": {"rank_by": "generative", "beam_width": 20},
}


def tiny_config(**sections: dict[str, Any]) -> RunConfig:
    """The tiny settings with some sections' entries replaced."""
    values = {name: {**entries, **sections.get(name, {})} for name, entries in TINY.items()}
    rest = {name: entries for name, entries in sections.items() if name not in TINY}
    return RunConfig.parse(values | rest)


def draw_tiny_shop(directory: Path) -> Path:
    """A dataset folder of 60 items and 150 users."""
    directory.mkdir(parents=True)
    draw_shop(directory, seed=0, num_items=60, num_users=150)
    return directory
