"""HTML files to look at: a run with its pictures by code, and the pieces other pages share."""

from bbqrec.report.codes import spread
from bbqrec.report.facts import coded, learned, measured
from bbqrec.report.metrics import (
    ORACLE,
    SETTINGS,
    Headline,
    Panel,
    difference_panels,
    display,
    headline,
    ordered,
    overall_panels,
    shown_metrics,
    slice_panels,
    verdict,
)
from bbqrec.report.page import write_report
from bbqrec.report.pictures import common_ratio, small_picture
from bbqrec.report.template import template

__all__ = [
    "ORACLE",
    "SETTINGS",
    "Headline",
    "Panel",
    "coded",
    "common_ratio",
    "difference_panels",
    "display",
    "headline",
    "learned",
    "measured",
    "ordered",
    "overall_panels",
    "shown_metrics",
    "slice_panels",
    "small_picture",
    "spread",
    "template",
    "verdict",
    "write_report",
]
