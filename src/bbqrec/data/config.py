"""Settings of preparation."""

from typing import Annotated, Literal

from pydantic import Field

from bbqrec.config import Config

Column = Literal[
    "user_id", "item_id", "timestamp", "position", "event", "rating", "weight", "image"
]
Format = Literal["auto", "folder", "table", "amazon", "recbole", "movielens", "lcrec", "s3rec"]


class PrepareConfig(Config):
    """How a source is read, filtered, ordered and split.

    Args:
        format: who wrote the source; "auto" looks at its files.
        columns: our name -> the file's, for tables with names of their own.
        header: column names of a table whose first line is data already.
        delimiter: between columns of a table; None finds it in the file.
        encoding: of text files; None is UTF-8.
        time_format: strptime pattern of dates that are not ISO 8601.
        text_columns: which item columns are text, in this order; None takes every string column.
        title_column: which item column is shown as the title; None looks for the usual names.
        event_weights: event type -> weight; types not named here, or at 0, are dropped.
        min_rating: interactions with a lower rating are dropped; None keeps all.
        latest: how many of each user's latest interactions stay, before the k-core; None is all.
        min_user, min_item: k-core bounds, in interactions; 1 keeps everybody.
        repeats: which interactions of a repeated user-item pair stay.
        ties: order of one user's events at one time: as in the source, or shuffled by `seed`.
        split: "leave_one_out" tests on each user's last item, "temporal" on the last part of time,
            "cold" on items that are kept from all training.
        validation_share, test_share: of the interactions, in the temporal split.
        cold_share: how many items the cold split removes from all training.
        seed: of item numbers, of ties in random order and of the cold split.
        max_bad_share: how many lines of a file may be unusable before the job ends.
    """

    format: Format = "auto"
    columns: dict[Column, str] = Field({})
    header: tuple[str, ...] | None = None
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    encoding: str | None = None
    time_format: str | None = None
    text_columns: tuple[str, ...] | None = None
    title_column: str | None = None
    event_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    min_rating: float | None = Field(None, allow_inf_nan=False)
    latest: int | None = Field(None, ge=1)
    min_user: int = Field(1, ge=1)
    min_item: int = Field(1, ge=1)
    repeats: Literal["keep", "first", "last"] = "keep"
    ties: Literal["source", "random"] = "source"
    split: Literal["leave_one_out", "temporal", "cold"] = "leave_one_out"
    validation_share: float = Field(0.1, gt=0, lt=0.5)
    test_share: float = Field(0.1, gt=0, lt=0.5)
    cold_share: float = Field(0.05, gt=0, lt=1)
    seed: int = Field(0, ge=0)
    max_bad_share: float = Field(0.01, ge=0, lt=1)
