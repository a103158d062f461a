"""Damaged Parquet files end in one sentence, whichever way Polars gives up on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bbqrec.errors import BBQRecError, DataError

_MAX_REASON_CHARS = 200


@contextmanager
def reading_parquet(
    path: Path, error_type: type[BBQRecError] = DataError, advice: str = "write it again"
) -> Iterator[None]:
    """Turn what Polars raises in this block into `error_type` naming `path`.

    Some kinds of damage make its Rust code panic, which is no ordinary exception in Python.
    """
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = " ".join(str(error).split())[:_MAX_REASON_CHARS]
        raise error_type(f"{path} is not a readable Parquet file ({reason}); {advice}") from None
