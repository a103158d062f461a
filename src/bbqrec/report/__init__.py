"""HTML files to look at: a run with its pictures by code, and the pieces other pages share."""

from bbqrec.report.metrics import (
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
from bbqrec.report.template import template

__all__ = [
    "SETTINGS",
    "Headline",
    "Panel",
    "difference_panels",
    "display",
    "headline",
    "ordered",
    "overall_panels",
    "shown_metrics",
    "slice_panels",
    "template",
    "verdict",
    "write_report",
]
