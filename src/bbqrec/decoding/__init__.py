"""Decoding: next-code scores -> ranked, existing items."""

from bbqrec.decoding.beam_search import beam_search
from bbqrec.decoding.config import RankBy, RankingConfig
from bbqrec.decoding.exhaustive import score_every_item
from bbqrec.decoding.merged import MergedRanker
from bbqrec.decoding.prefix_index import PrefixIndex
from bbqrec.decoding.rankers import (
    BothRanker,
    DenseRanker,
    GenerativeRanker,
    make_ranker,
)
from bbqrec.decoding.scorer import CodeScorer, DenseModel, GenerativeModel, TwoScoreModel

__all__ = [
    "BothRanker",
    "CodeScorer",
    "DenseModel",
    "DenseRanker",
    "GenerativeModel",
    "GenerativeRanker",
    "MergedRanker",
    "PrefixIndex",
    "RankBy",
    "RankingConfig",
    "TwoScoreModel",
    "beam_search",
    "make_ranker",
    "score_every_item",
]
