"""The run as one HTML file."""

from bbqrec.bundle import RunFolder


def write_report(run: RunFolder) -> None:
    pass
