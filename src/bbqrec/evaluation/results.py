"""What an evaluation found, as plain values that survive a round trip through JSON."""

from typing import Any

from pydantic import Field

from bbqrec.config import Config
from bbqrec.evaluation.scores import Scores


class ModelResult(Config):
    """One model under one setting of the history filter.

    Args:
        slices: kind of slice -> label -> scores.
        coverage: share of the catalog that appears in at least one list of the first k.
        novelty_bits: mean self-information of the listed items under training popularity,
            -log2((count + 1) / (interactions + items)).
        filled: share of the places of those lists that hold an item.
        wall_s: time the model took to rank for all cases.
    """

    overall: Scores
    slices: dict[str, dict[str, Scores]]
    coverage: float
    novelty_bits: float
    filled: float
    wall_s: float


class Evaluation(Config):
    """Models on identical cases.

    Args:
        protocol: every switch that the numbers depend on.
        num_repeat_targets: cases whose target is already in the history; with history items
            removed from the candidates no model can find them.
        models: model -> "kept" or "filtered" -> result.
        ranks: model -> "kept" or "filtered" -> int64 (case,), the target's rank counted from 1,
            0 when absent. Not part of the JSON form.
    """

    split: str
    reference: str | None
    main_metric: str
    protocol: dict[str, Any]
    num_cases: int
    num_items: int
    num_repeat_targets: int
    models: dict[str, dict[str, ModelResult]]
    ranks: dict[str, dict[str, Any]] = Field(default={}, exclude=True, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `storage.write_json`; `Evaluation.parse` reads them back."""
        return self.model_dump(mode="json")
