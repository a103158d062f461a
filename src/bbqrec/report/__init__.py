"""The run as one HTML file to look at: pictures by code, curves, tables, people."""

from bbqrec.report.page import write_report

__all__ = ["write_report"]
