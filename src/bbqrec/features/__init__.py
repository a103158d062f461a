"""Texts and images -> vectors, or vectors brought along."""

from bbqrec.features.config import ModalityConfig, default_encoders
from bbqrec.features.encode import encode
from bbqrec.features.encode_more import encode_more
from bbqrec.features.encoders import Encoder, load_encoder
from bbqrec.features.features import (
    Features,
    load_features,
    main_directions,
    standardize,
    standardize_like,
)

__all__ = [
    "Encoder",
    "Features",
    "ModalityConfig",
    "default_encoders",
    "encode",
    "encode_more",
    "load_encoder",
    "load_features",
    "main_directions",
    "standardize",
    "standardize_like",
]
