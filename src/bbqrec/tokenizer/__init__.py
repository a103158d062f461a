"""Item features and behavior -> semantic IDs: encoders, quantizer, losses."""

from bbqrec.tokenizer.assignment import Assignment, assign, explained_by, join_parts
from bbqrec.tokenizer.behavior_bound import (
    BehaviorBoundTokenizer,
    ItemContent,
    QuantizedStreams,
    Streams,
)
from bbqrec.tokenizer.club import Club, ClubPair, Informations, club_bound, club_likelihood
from bbqrec.tokenizer.collisions import place_newcomers, resolve_collisions
from bbqrec.tokenizer.config import TokenizerConfig
from bbqrec.tokenizer.cooccurrence import cooccurrence_vectors
from bbqrec.tokenizer.health import health_table
from bbqrec.tokenizer.kmeans import kmeans, nearest, residual_kmeans
from bbqrec.tokenizer.letter import CodeGroups
from bbqrec.tokenizer.losses import (
    alignment_loss,
    cross_stream_loss,
    diversity_loss,
    quantization_loss,
    reconstruction_loss,
    sequence_to_item_loss,
)
from bbqrec.tokenizer.newcomers import Newcomers, NewContent, tokenize_newcomers
from bbqrec.tokenizer.residual_quantizer import Quantized, ResidualQuantizer, straight_through
from bbqrec.tokenizer.rq_kmeans import fit_rq_kmeans, side_by_side
from bbqrec.tokenizer.rq_vae import RQVAE
from bbqrec.tokenizer.windows import WindowBatch, WindowSampler

__all__ = [
    "RQVAE",
    "Assignment",
    "BehaviorBoundTokenizer",
    "Club",
    "ClubPair",
    "CodeGroups",
    "Informations",
    "ItemContent",
    "NewContent",
    "Newcomers",
    "Quantized",
    "QuantizedStreams",
    "ResidualQuantizer",
    "Streams",
    "TokenizerConfig",
    "WindowBatch",
    "WindowSampler",
    "alignment_loss",
    "assign",
    "club_bound",
    "club_likelihood",
    "cooccurrence_vectors",
    "cross_stream_loss",
    "diversity_loss",
    "explained_by",
    "fit_rq_kmeans",
    "health_table",
    "join_parts",
    "kmeans",
    "nearest",
    "place_newcomers",
    "quantization_loss",
    "reconstruction_loss",
    "residual_kmeans",
    "resolve_collisions",
    "sequence_to_item_loss",
    "side_by_side",
    "straight_through",
    "tokenize_newcomers",
]
