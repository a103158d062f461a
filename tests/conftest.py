"""Shape checks on, one torch thread, and where the measurement data are."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

install_import_hook("bbqrec", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402
from needs import lacking  # noqa: E402

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The measurement data, which are beside the checkout or where BBQREC_DATA says."""
    path = Path(os.environ.get("BBQREC_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        lacking(f"no measurement data at {path}; set BBQREC_DATA to their folder")
    return path
