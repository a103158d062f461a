"""Rankings -> metrics, under one protocol that makes models comparable."""

from bbqrec.evaluation.bootstrap import Intervals, bootstrap_intervals
from bbqrec.evaluation.environment import environment
from bbqrec.evaluation.metrics import metric_values, target_ranks
from bbqrec.evaluation.predictions import read_predictions, write_trec
from bbqrec.evaluation.protocol import (
    HISTORY_SETTINGS,
    EvaluationConfig,
    count_repeat_targets,
    evaluate,
    quick_metrics,
    sample_cases,
)
from bbqrec.evaluation.results import Evaluation, ModelResult
from bbqrec.evaluation.scores import Interval, Scores, rank_values, score_ranks, score_values
from bbqrec.evaluation.slices import slice_cases
from bbqrec.evaluation.tables import (
    SETTING_TITLES,
    markdown_slices,
    markdown_table,
    markdown_tables,
    overall_table,
    signed_interval,
    slice_table,
)

__all__ = [
    "HISTORY_SETTINGS",
    "SETTING_TITLES",
    "Evaluation",
    "EvaluationConfig",
    "Interval",
    "Intervals",
    "ModelResult",
    "Scores",
    "bootstrap_intervals",
    "count_repeat_targets",
    "environment",
    "evaluate",
    "markdown_slices",
    "markdown_table",
    "markdown_tables",
    "metric_values",
    "overall_table",
    "quick_metrics",
    "rank_values",
    "read_predictions",
    "sample_cases",
    "score_ranks",
    "score_values",
    "signed_interval",
    "slice_cases",
    "slice_table",
    "target_ranks",
    "write_trec",
]
