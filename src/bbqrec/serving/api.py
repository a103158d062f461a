"""What requests may say and what answers look like: the source of the OpenAPI description.

Requests are checked here and nowhere else. Nothing is converted: "5" is no number, 1.5 no count.
"""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from bbqrec.config import Config

MAX_IDS = 10_000
MAX_USERS = 256
MAX_EVENTS = 1000
MAX_K = 1000
END_OF_TIME = 253_402_300_799  # the last second of the year 9999

# Control characters are never meant, and an id that no path can hold could not be deleted.
ID_PATTERN = r"^[^\x00-\x1f\x7f]+$"
MAX_ID_CHARS = 1024
Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARS, pattern=ID_PATTERN)]
Words = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")]
Ids = Annotated[list[Id], Field(max_length=MAX_IDS)]


def _whole(value: Any) -> Any:
    """5.0 is an integer in JSON, as its schemas have it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


def absent() -> Any:
    """The field may be left out, which is None; null is refused."""
    return Field(default=None, json_schema_extra=_without_default)


Count = Annotated[int, Field(ge=1, le=MAX_K), BeforeValidator(_whole)]


class RecommendRequest(Config):
    """Whom to recommend to, by id or by history, and what may be recommended."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["user_ids"]}, {"required": ["histories"]}],
            "examples": [{"histories": [["MUG-0042", "LAMP-0007"]], "k": 5}],
        }
    )

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)] = absent()
    """Users of the run or of posted events; others get what is popular."""
    histories: Annotated[list[Ids], Field(min_length=1, max_length=MAX_USERS)] = absent()
    """Item ids, oldest first, one list per user; unknown ids are passed over and named."""
    k: Count = 10
    """How many items; fewer come back where fewer may be recommended."""
    exclude_seen: bool = True
    """Leave out the items of the history."""
    exclude: Ids = Field(default_factory=list)
    """Items that must not appear."""
    allow: Ids = absent()
    """Only these items may appear; absent, all may."""
    beam_width: Count = absent()
    """How many prefixes the search keeps: of runs that generate, up to the server's --max-beam."""

    @model_validator(mode="after")
    def _names_users_once(self) -> "RecommendRequest":
        if (self.user_ids is None) == (self.histories is None):
            raise ValueError("give either user_ids or histories")
        return self


class EventIn(Config):
    """A user took an item."""

    user_id: Id
    item_id: Id
    """Known or not: an item may come later."""
    time: Annotated[float, Field(ge=0, le=END_OF_TIME)] = absent()
    """Seconds since 1970; absent, now. Histories are in order of time, then of arrival."""


class EventsRequest(Config):
    """Interactions to remember, all or none."""

    events: list[EventIn] = Field(min_length=1, max_length=MAX_EVENTS)


class ItemRequest(Config):
    """A new item: what its title, text and picture say gives it a place among the others."""

    item_id: Id
    title: Words = ""
    """What to call it; read by the text encoder, too."""
    text: Words = ""
    """Whatever else the catalog's texts say: category, brand, description."""
    image: str = Field("", json_schema_extra={"contentEncoding": "base64"})
    """An image file (JPEG, PNG, WebP, GIF, BMP or TIFF) in base64."""


class Answered(BaseModel):
    """Base of answers; they are made by us, so they are described and not checked."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class ItemOut(Answered):
    item_id: str
    title: str
    log_probability: float


class AnswerOut(Answered):
    """One user's recommendations."""

    user_id: str | None
    items: list[ItemOut]
    """Best first."""
    is_fallback: bool
    """Nothing in the history is known, so these are the most popular items."""
    unknown_items: list[str]
    """Ids of the history that the catalog does not have, at most 100 of them."""
    is_history_stale: bool
    """The event store could not be read: only what the run knows of the user was used."""


class RecommendOut(Answered):
    """One answer per user, in the order of the request."""

    model_version: str
    answers: list[AnswerOut]


class EventsOut(Answered):
    stored: int
    is_replay: bool
    """The same Idempotency-Key was stored before: nothing was stored again."""


class HistoryEntry(Answered):
    item_id: str
    time: float | None
    """None for what the run knows, which keeps the order only."""


class UserOut(Answered):
    user_id: str
    history: list[HistoryEntry]
    """Oldest first."""


class ItemDetail(Answered):
    item_id: str
    title: str
    semantic_id: list[int]
    """Its codes, coarse to fine."""
    is_new: bool
    """It was posted after training."""
    times_taken: int
    """In the run's training data."""


class PostedOut(ItemDetail):
    model_version: str


class SimilarItem(Answered):
    item_id: str
    title: str
    cosine: float


class SimilarOut(Answered):
    model_version: str
    items: list[SimilarItem]


class HealthOut(Answered):
    status: str
    model_version: str


class ReloadOut(Answered):
    model_version: str
    previous: str


class FieldProblem(Answered):
    where: str
    why: str


class Problem(Answered):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldProblem] = Field(default_factory=list)
