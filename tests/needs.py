"""What a test needs beside Python: elsewhere it is skipped without, in CI it fails."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

MUST_RUN = "BBQREC_ALL_TESTS"  # set by .ci/run, which installs everything


def lacking(what: str) -> NoReturn:
    """Skip the test for want of `what`, or fail where nothing may be skipped."""
    if os.environ.get(MUST_RUN):
        pytest.fail(f"{what}, and {MUST_RUN} says that every test must run", pytrace=False)
    pytest.skip(what)


def chromium() -> Path:
    """Debian's browser."""
    path = Path("/usr/bin/chromium")
    if not path.exists():
        lacking("Chromium is not installed (Debian: apt install chromium)")
    return path
