"""A finished run as files that other programs use: graphs, vectors, semantic IDs."""

from bbqrec.export.export import ExportSummary, export_run
from bbqrec.export.onnx_check import TOLERANCE

__all__ = ["TOLERANCE", "ExportSummary", "export_run"]
