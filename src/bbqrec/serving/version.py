"""One state of model and catalog, never changed: a server swaps it as a whole.

Every request is answered by one version from beginning to end, and its answer names it.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.bundle import RunFolder
from bbqrec.errors import (
    BBQRecError,
    ConflictError,
    CorruptArtifactError,
    NotFoundError,
    RequestError,
)
from bbqrec.explain import Explainer, Explanation
from bbqrec.new_items import Extended, NewItems, Placed
from bbqrec.pretrained import is_pretrained
from bbqrec.recommend import Recommendation, RecommendedItem, Recommender
from bbqrec.recommender import OnePassRecommender
from bbqrec.serving.encoded import EncodedHistories
from bbqrec.serving.store import PostedItem

MAX_STATES = 65_536  # of histories, that are kept of a model
NUM_GOLDEN = 8
GOLDEN_K = 10

logger = logging.getLogger(__name__)

History = tuple[str, ...]


class Options(NamedTuple):
    """What shapes an answer beside the history; None allows every item."""

    k: int
    exclude_seen: bool = True
    allow: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()
    beam_width: int | None = None


@dataclass(frozen=True, eq=False)
class Version:
    """A run with the posted items in it and the withdrawn ones out of it.

    Args:
        name: the run's identity; changed by another run, not by another catalog.
        posted: in the order of their arrival, which decides their semantic IDs.
        recommender: knows the run's items, then the posted ones.
        explainer_of_run: knows the run's items alone; `explainer` knows all.
    """

    name: str
    run: RunFolder
    new_items: NewItems
    posted: tuple[Placed, ...]
    withdrawn: frozenset[str]
    extended: Extended
    recommender: Recommender
    explainer_of_run: Explainer

    @classmethod
    def load(
        cls,
        run_dir: Path,
        posted: Iterable[PostedItem],
        withdrawn: Collection[str],
        restored: Collection[str] = (),
    ) -> "Version":
        """Read and check a run folder; posted items that it cannot take are left out, and named.

        Args:
            withdrawn, restored: beside the items that the run itself says were withdrawn.
        """
        run = RunFolder(run_dir)
        if is_pretrained(run_dir):
            raise RequestError(
                f"{run_dir} is a model saved without what new items need; serve the run it is from"
            )
        recommender = Recommender.load(run)
        own = recommender.dataset.info.get("withdrawn", [])
        gone = frozenset(own).difference(restored).union(withdrawn)
        explainer = Explainer.of_run(run, recommender)
        new_items = NewItems(run, recommender)
        placed = []
        for item in posted:
            if item.item_id in recommender.item_of_id:
                continue  # by now the run has learned it
            try:
                placed.append(new_items.encode(item))
            except BBQRecError as error:
                logger.warning("the posted item %r is left out: %s", item.item_id, error)
        name = run.model_version()
        return cls._make(name, run, new_items, tuple(placed), gone, explainer)

    @classmethod
    def _make(
        cls,
        name: str,
        run: RunFolder,
        new_items: NewItems,
        posted: tuple[Placed, ...],
        withdrawn: frozenset[str],
        explainer: Explainer,
    ) -> "Version":
        extended = new_items.extend(posted)
        model = extended.recommender.model
        if isinstance(model, OnePassRecommender) and model.recall is None:
            model.recall = EncodedHistories(MAX_STATES)
        recommender = _without(extended, withdrawn)
        return cls(name, run, new_items, posted, withdrawn, extended, recommender, explainer)

    def with_item(self, item: PostedItem) -> "Version":
        """This version and one more item.

        Raises:
            ConflictError: the id is taken.
            RequestError, FeatureError, SemanticIdError: the item cannot be placed.
        """
        if item.item_id in self.recommender.item_of_id:
            raise ConflictError(
                "there is an item of this id already; if it was withdrawn, DELETE "
                "/v1/withdrawn/{id} lets it back in"
            )
        if item.image is not None and not self.new_items.reads_pictures:
            raise RequestError("this run was trained without pictures; leave the image out")
        posted = (*self.posted, self.new_items.encode(item))
        explainer = self.explainer_of_run
        return self._make(self.name, self.run, self.new_items, posted, self.withdrawn, explainer)

    def with_withdrawn(self, withdrawn: Collection[str]) -> "Version":
        """This version with exactly these items never recommended."""
        chosen = frozenset(withdrawn)
        return replace(self, withdrawn=chosen, recommender=_without(self.extended, chosen))

    def recommend(self, histories: Sequence[History], options: Options) -> list[Recommendation]:
        """One answer per history, of at most as many items as there are."""
        known = self.recommender.item_of_id
        allow = None if options.allow is None else [i for i in options.allow if i in known]
        if allow == []:
            return [self._nothing(history) for history in histories]
        return self.recommender.recommend(
            histories,
            min(options.k, len(known)),
            exclude_seen=options.exclude_seen,
            allowed=allow,
            excluded=options.exclude,
            beam_width=options.beam_width,
        )

    def explain(self, history: History, item_ids: Sequence[str]) -> list[Explanation]:
        """Why these items have their scores after a history of which something is known."""
        return self.explainer.explain(history, item_ids)

    @cached_property
    def explainer(self) -> Explainer:
        return self.explainer_of_run.of(self.recommender)

    def _nothing(self, history: History) -> Recommendation:
        unknown = [item_id for item_id in history if item_id not in self.recommender.item_of_id]
        return Recommendation([], len(unknown) == len(history), unknown, 0)

    def item(self, item_id: str) -> int:
        """The number of an item that can be recommended; NotFoundError for others."""
        item = self.recommender.item_of_id.get(item_id)
        if item is None or item_id in self.withdrawn:
            raise NotFoundError("there is no such item, or it was withdrawn")
        return item

    def similar(self, item_id: str, k: int) -> list[RecommendedItem]:
        """The items nearest to one, by the cosine of what the tokenizer learned of them."""
        item = self.item(item_id)
        cosines = self.extended.likeness @ self.extended.likeness[item]
        cosines[item] = -torch.inf
        if self._unavailable.numel():
            cosines[self._unavailable] = -torch.inf
        values, items = cosines.sort(descending=True, stable=True)
        dataset = self.recommender.dataset
        return [
            RecommendedItem(dataset.item_ids[i], dataset.titles[i], value)
            for i, value in zip(items[:k].tolist(), values[:k].tolist(), strict=True)
            if value > -torch.inf
        ]

    @cached_property
    def _unavailable(self) -> Tensor:
        known = self.recommender.item_of_id
        return torch.tensor([known[i] for i in self.withdrawn if i in known], dtype=torch.long)

    @cached_property
    def popularity(self) -> NDArray[np.int64]:
        """How often each item occurs in the run's training data."""
        return self.recommender.dataset.popularity()

    def taken_from(self, store: str) -> int:
        """The number of an event store's last event that the run's histories have."""
        return int(self.recommender.dataset.info.get("taken", {}).get(store, 0))

    def base_history(self, user_id: str) -> list[str] | None:
        """What the run itself knows of a user, oldest first; None for others."""
        user = self._user_of_id.get(user_id)
        if user is None:
            return None
        item_ids = self.recommender.dataset.item_ids
        return [item_ids[item] for item in self._known_histories[user]]

    @cached_property
    def _user_of_id(self) -> dict[str, int]:
        return {user_id: user for user, user_id in enumerate(self.recommender.dataset.user_ids)}

    @cached_property
    def _known_histories(self) -> list[list[int]]:
        return [row.tolist() for row in self.recommender.dataset.known_histories()]

    def golden_histories(self) -> list[History]:
        """Requests that any good successor of this version can answer: users of the run."""
        users = self.recommender.dataset.user_ids
        step = max(1, len(users) // NUM_GOLDEN)
        return [tuple(self.base_history(user) or ()) for user in users[::step][:NUM_GOLDEN]]

    def check(self, golden: Sequence[History]) -> None:
        """Answer `golden` requests and one of nobody; CorruptArtifactError unless all is well."""
        num_items = len(self.recommender.item_of_id)
        answers = self.recommend([*golden, ()], Options(GOLDEN_K, exclude_seen=False))
        wanted = min(GOLDEN_K, num_items - len(self._unavailable))
        for answer in answers:
            ids = [item.item_id for item in answer.items]
            is_finite = all(abs(item.log_probability) < float("inf") for item in answer.items)
            if len(set(ids)) != wanted or len(ids) != wanted or not is_finite:
                raise CorruptArtifactError(
                    f"the run in {self.run.directory} does not answer a request for {wanted} "
                    "items with that many, each once, and scores that are numbers"
                )
        strangers = sum(answer.is_fallback for answer in answers[:-1])
        if 2 * strangers > len(golden):
            raise CorruptArtifactError(
                f"the run in {self.run.directory} knows no item of {strangers} of {len(golden)} "
                "users' histories; is it of another shop?"
            )


def _without(extended: Extended, withdrawn: frozenset[str]) -> Recommender:
    base = extended.recommender
    gone = [base.item_of_id[i] for i in withdrawn if i in base.item_of_id]
    if not gone and base.available is None:
        return base
    available = torch.ones(base.dataset.num_items, dtype=torch.bool)
    available[gone] = False
    return Recommender(
        base.dataset, base.semantic_ids, base.model, base.ranker, available=available
    )
