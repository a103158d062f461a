"""Raw files -> a prepared dataset: importers, validation, splits, the demo shop."""

from bbqrec.data.catalog import TEXT_SEPARATOR, load_texts
from bbqrec.data.collected import Collected, Event, Found, PostedItem, hash_user
from bbqrec.data.config import PrepareConfig
from bbqrec.data.dataset import Cases, Dataset, Sequences
from bbqrec.data.drawn_shop import Oracle, draw_shop
from bbqrec.data.exchange import (
    RECOMMENDATION_SUFFIXES,
    read_histories,
    read_semantic_ids,
    recommendations_as_jsonl,
    write_index_json,
    write_recommendations,
    write_semantic_ids,
)
from bbqrec.data.images import ImageFile, has_images, iter_images, read_images
from bbqrec.data.lcrec import write_lcrec
from bbqrec.data.prepare import load_weights, prepare
from bbqrec.data.vectors import read_vectors, vectors_of

__all__ = [
    "RECOMMENDATION_SUFFIXES",
    "TEXT_SEPARATOR",
    "Cases",
    "Collected",
    "Dataset",
    "Event",
    "Found",
    "ImageFile",
    "Oracle",
    "PostedItem",
    "PrepareConfig",
    "Sequences",
    "draw_shop",
    "has_images",
    "hash_user",
    "iter_images",
    "load_texts",
    "load_weights",
    "prepare",
    "read_histories",
    "read_images",
    "read_semantic_ids",
    "read_vectors",
    "recommendations_as_jsonl",
    "vectors_of",
    "write_index_json",
    "write_lcrec",
    "write_recommendations",
    "write_semantic_ids",
]
