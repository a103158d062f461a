"""A history -> scores for the next code or item; the classic baselines."""

from bbqrec.recommender.attention_shares import AttentionShares, attention_shares
from bbqrec.recommender.build import build_recommender
from bbqrec.recommender.catalog_loss import catalog_loss
from bbqrec.recommender.config import NeighborConfig, RecommenderConfig, SimilarityConfig
from bbqrec.recommender.content_knn import (
    ContentKnn,
    ContentKnnConfig,
    fit_content_knn,
    tune_content_knn,
)
from bbqrec.recommender.dense_score import Evidence, dense_logits
from bbqrec.recommender.graphs import Graph, dense_tables, graphs
from bbqrec.recommender.item_knn import ItemKnn, ItemKnnConfig, fit_item_knn, tune_item_knn
from bbqrec.recommender.neighbors import (
    Nearest,
    count_neighbors,
    find_neighbors,
    nearest_by_content,
    with_newcomers,
)
from bbqrec.recommender.one_pass import OnePassOutput, OnePassRecommender
from bbqrec.recommender.paper import PaperRecommender
from bbqrec.recommender.popularity import Popularity, fit_popularity
from bbqrec.recommender.repeat_bias import AGE_LABELS, EntryCounts, following_places
from bbqrec.recommender.score_parts import ScoreParts, dense_parts, walk_parts
from bbqrec.recommender.sequence_model import SequenceModel
from bbqrec.recommender.similarity_edges import similarity_edges
from bbqrec.recommender.tables import (
    BEHAVIOR,
    TRANSITION,
    ItemTables,
    Neighbors,
    catalog_from_weights,
)
from bbqrec.recommender.transitions import (
    Transitions,
    find_transitions,
    join_transitions,
    take_out_transitions,
)
from bbqrec.recommender.tree_decoder import TreeDecoder

__all__ = [
    "AGE_LABELS",
    "BEHAVIOR",
    "TRANSITION",
    "AttentionShares",
    "ContentKnn",
    "ContentKnnConfig",
    "EntryCounts",
    "Evidence",
    "Graph",
    "ItemKnn",
    "ItemKnnConfig",
    "ItemTables",
    "Nearest",
    "NeighborConfig",
    "Neighbors",
    "OnePassOutput",
    "OnePassRecommender",
    "PaperRecommender",
    "Popularity",
    "RecommenderConfig",
    "ScoreParts",
    "SequenceModel",
    "SimilarityConfig",
    "Transitions",
    "TreeDecoder",
    "attention_shares",
    "build_recommender",
    "catalog_from_weights",
    "catalog_loss",
    "count_neighbors",
    "dense_logits",
    "dense_parts",
    "dense_tables",
    "find_neighbors",
    "find_transitions",
    "fit_content_knn",
    "fit_item_knn",
    "fit_popularity",
    "following_places",
    "graphs",
    "join_transitions",
    "nearest_by_content",
    "similarity_edges",
    "take_out_transitions",
    "tune_content_knn",
    "tune_item_knn",
    "walk_parts",
    "with_newcomers",
]
