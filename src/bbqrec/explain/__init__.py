"""Why the model gave an item its score: parts, history, semantic ID; numbers, not a story."""

from bbqrec.explain.explainer import (
    Code,
    Explainer,
    Explanation,
    HistoryPart,
    LevelStep,
    Parts,
)
from bbqrec.explain.labels import CodeLabels
from bbqrec.explain.table import explanation_table

__all__ = [
    "Code",
    "CodeLabels",
    "Explainer",
    "Explanation",
    "HistoryPart",
    "LevelStep",
    "Parts",
    "explanation_table",
]
