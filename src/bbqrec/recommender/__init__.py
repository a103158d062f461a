"""A history -> scores for the next code or item; the classic baselines."""

from bbqrec.recommender.item_knn import ItemKnn, ItemKnnConfig, fit_item_knn, tune_item_knn
from bbqrec.recommender.popularity import Popularity, fit_popularity

__all__ = [
    "ItemKnn",
    "ItemKnnConfig",
    "Popularity",
    "fit_item_knn",
    "fit_popularity",
    "tune_item_knn",
]
