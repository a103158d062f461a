"""What requests may say and what answers look like: the source of the OpenAPI description.

Requests are checked here and nowhere else. Nothing is converted: "5" is no number, 1.5 no count.
"""

from typing import Annotated, Any, Literal

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
MAX_EXPLAINED = 10  # items of a user
MAX_EXPLAINED_USERS = 8
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
    """How many prefixes the search keeps: of runs that generate, up to the server's --max-beam.
    Where all items are scored there is nothing to keep."""
    explain: bool = False
    """Say why the model chose them of the first 10 items of the first 8 users."""

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


class PartsOut(Answered):
    """What the logit is the sum of; parts that the run does not use are 0."""

    tree: float
    """The log-probability of its semantic ID before neighbors and repeats count, where items are
    found by walking down the tree of semantic IDs."""
    own: float
    """The item's own vector: what is true of it alone."""
    content: dict[str, float]
    """By modality: text, image, ..."""
    codes: float
    """The vectors of its semantic ID's codes: what it shares with others."""
    new: float
    """Training never saw it."""
    neighbors: float
    """It is like items that the user had lately."""
    repeat: float
    """The user had it before."""


class HistoryPartOut(Answered):
    """One event of the history and what it did for the item that is explained."""

    item_id: str
    title: str
    attention: float | None
    """Share of the last layer's attention (mean over heads); null where the event is older than
    what the model attends to."""
    similarity_bias: dict[str, float]
    """What its likeness to the latest item added to the attention logit, by modality (mean over
    heads)."""
    neighbor: dict[str, float]
    """What it gave to the logit since the two are near neighbors, by kind of likeness."""
    left_out: float
    """The item's score minus its score if this event had not been: above 0, it speaks for it."""


class CodeOut(Answered):
    code: int
    label: str
    """The most telling words of the items that share the semantic ID so far, else a title."""
    log_probability: float
    """Given the codes before it."""


class LevelOut(CodeOut):
    runners_up: list[CodeOut]
    """The likeliest other codes that lead to an item, at most 3."""


class ExplanationOut(Answered):
    """Why the model gave an item its score, in numbers of the model itself.

    score = logit - log_normalizer where `rank_by` is "dense"; the sum of the levels'
    log-probabilities where it is "generative", and the first as well where there is a logit; the
    first + generative_weight x the second where it is "both".
    """

    score: float
    rank_by: Literal["dense", "generative", "both"]
    logit: float | None
    """The sum of `parts`."""
    log_normalizer: float | None
    """What all items have together; less where others have the same semantic ID, whose share is in
    the score, too."""
    generative_weight: float
    parts: PartsOut | None
    """None where the run generates, other than on a walk that knows neighbors."""
    attention_elsewhere: float
    """The attention that went to no event of the history: to its start or end."""
    history: list[HistoryPartOut]
    """Every event that was read, oldest first."""
    levels: list[LevelOut] | None
    """How the generative probability fell, coarse to fine; None without a trained decoder."""


class ItemOut(Answered):
    item_id: str
    title: str
    log_probability: float
    explanation: ExplanationOut | None = None
    """If asked to `explain`; null where items are popular ones (`is_fallback`) or too many."""


class AnswerOut(Answered):
    """One user's recommendations."""

    user_id: str | None
    items: list[ItemOut]
    """Best first."""
    is_fallback: bool
    """Nothing in the history is known, so these are the most popular items."""
    unknown_items: list[str]
    """Ids of the history that the catalog does not have, at most 100 of them."""
    withdrawn_items: list[str]
    """Ids of the history that were withdrawn, at most 100 of them: they still say what the user
    likes."""
    num_recommendable: int
    """How many items may be recommended here, after `allow`, `exclude`, `exclude_seen` and
    withdrawals: no more come back, however large `k` is."""
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
