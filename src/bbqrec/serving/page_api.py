"""What the page asks for: the same for whoever builds another."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field

from bbqrec.serving.api import Answered

MAX_QUERY_CHARS = 200
PREFIX_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,6}){0,31}$"

Words = Annotated[
    str,
    Query(
        max_length=MAX_QUERY_CHARS,
        pattern=r"^[^\x00]*$",
        description="Beginnings of words of the title, or an item's id; nothing asks for what is "
        "popular.",
    ),
]
Prefix = Annotated[
    str | None,
    Query(
        pattern=PREFIX_PATTERN,
        max_length=224,
        description="Codes from the first on, with dots between; absent, the whole catalog.",
        examples=["17.3"],
    ),
]
Start = Annotated[int, Query(ge=0, le=2**31, description="How many to leave out at first.")]
Few = Annotated[int, Query(ge=1, le=64)]
Many = Annotated[int, Query(ge=1, le=1000)]
Order = Annotated[
    Literal["size", "taken", "code"],
    Query(description="Most items first, most taken first, or as they are numbered."),
]


class Card(Answered):
    item_id: str
    title: str
    has_picture: bool
    """Whether /v1/pictures may have one; of a posted item that is not known before."""


class FoundOut(Answered):
    """Items whose words begin as asked, the most popular first."""

    model_version: str
    items: list[Card]


class CatalogOut(Answered):
    """What is served, in a few words."""

    model_version: str
    source: str
    num_items: int
    num_users: int
    num_levels: int
    has_pictures: bool
    picture_ratio: float
    """Width over height of a frame that suits most pictures."""
    examples: list[list[Card]]
    """What some users of the run took last, oldest first."""


class BranchCode(Answered):
    """The items that go on with one more code."""

    code: int
    size: int
    times_taken: int
    """In the run's training data, all items together."""
    num_colliding: int
    """Items whose whole semantic ID another item has, too."""
    label: str
    """Words that tell these items from all others, without those that shorter prefixes said; empty
    where chance explains them."""
    items: list[Card]
    """A few of them."""


class BranchOut(Answered):
    """Items whose semantic IDs begin alike, by their next code."""

    model_version: str
    prefix: list[int]
    path: list[BranchCode]
    """The codes of the prefix, one by one."""
    num_levels: int
    size: int
    times_taken: int
    num_colliding: int
    codebook_size: int | None
    """Of the next level; None after the last."""
    sizes: dict[str, int]
    """Next code -> items; codes without are left out."""
    dead_codes: list[int]
    """Of the next level: no item of the catalog has them, whatever it begins with."""
    num_codes: int
    codes: list[BranchCode]
    """As many of the next codes as were asked for."""


class BranchItem(Card):
    semantic_id: list[int]
    times_taken: int


class BranchItemsOut(Answered):
    """Items whose semantic IDs begin alike, in the order of their codes."""

    model_version: str
    size: int
    items: list[BranchItem]


class RunOut(Answered):
    """How the run was made, how good it is, and what it learned: the report's numbers."""

    model_version: str
    source: str
    num_users: int
    num_items: int
    num_interactions: int
    num_parameters: int
    rank_by: str
    finished: str
    seconds: dict[str, float]
    """Stage -> how long it took."""
    warnings: list[str]
    measured: dict[str, Any] | None = Field()
    """Metrics with intervals, overall and by slice; None for a run that was not evaluated."""
    codes: dict[str, Any]
    """Use and health of the semantic IDs."""
    learned: dict[str, Any]
    """Training curves; similarity, repeat and neighbor tables."""
