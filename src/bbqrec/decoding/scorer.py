"""What decoding knows of a recommender: the few methods that any model can offer."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.ranking import Histories


@runtime_checkable
class CodeScorer(Protocol):
    """One batch of users in the middle of decoding: scores the next code, level by level."""

    def first(self) -> Float[Tensor, "batch code"]:
        """Log-probabilities of the codes of level 0."""
        ...

    def extend(
        self, parents: Int[Tensor, "batch beam"], codes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """Append a code to beams of the previous call; log-probabilities of the next level.

        Args:
            parents: the beam of the previous call that each new beam continues. At the first
                call there is one beam, number 0: the empty semantic ID.
            codes: the code each new beam appends.
        """
        ...


@runtime_checkable
class CatalogScorer(CodeScorer, Protocol):
    """A session that scores the whole catalog for less than by extending every prefix."""

    @property
    def knows_every_item(self) -> bool:
        """It has done so already: its answers to `first` and `extend` are made of those scores."""
        ...

    def every_item(self) -> Float[Tensor, "batch item"]:
        """Log-probabilities of all items' semantic IDs, before the first call of the others."""
        ...


@runtime_checkable
class RankingModel(Protocol):
    """What every model shows besides its scores; `torch.nn.Module` has all but the first."""

    training: bool

    @property
    def max_history(self) -> int:
        """How many of the latest items the model reads."""
        ...

    def train(self, mode: bool = True) -> object:
        """Switch dropout and the like on, or off with `mode=False`."""
        ...


@runtime_checkable
class GenerativeModel(RankingModel, Protocol):
    """A model of the next item's semantic ID.

    Histories are left-aligned, oldest item first, unused places -1 (`Histories.latest`);
    a length may be 0.
    """

    def begin(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]
    ) -> CodeScorer:
        """Read the histories once; the session scores what follows them."""
        ...

    def score_items(
        self,
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, " batch"],
        candidates: Int[Tensor, "batch candidate"],
    ) -> Float[Tensor, "batch candidate"]:
        """Log-probability of each candidate's whole semantic ID."""
        ...


@runtime_checkable
class DenseModel(RankingModel, Protocol):
    """A model that scores every item of the catalog at once."""

    def dense_scores(
        self, histories: Histories, *, new_item_boost: float = 0.0
    ) -> Float[Tensor, "batch item"]:
        """Higher is better; a log-probability if the score is to be added to another.

        Args:
            new_item_boost: added to the logit of items without training interactions.
        """
        ...


@runtime_checkable
class TwoScoreModel(GenerativeModel, DenseModel, Protocol):
    """A model with both scores."""
