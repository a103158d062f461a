"""Texts and images -> vectors, or vectors brought along."""

from bbqrec.features.features import Features, load_features, standardize

__all__ = ["Features", "load_features", "standardize"]
