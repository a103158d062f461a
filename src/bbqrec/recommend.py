"""A trained run as an object that recommends: item ids in, titles and log-probabilities out."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from bbqrec.bundle import RunFolder, not_a_run
from bbqrec.data import Dataset
from bbqrec.decoding import GenerativeRanker, RankingConfig, make_ranker
from bbqrec.errors import CorruptArtifactError, RequestError
from bbqrec.pretrained import fetch, is_pretrained, save_pretrained, verify_pretrained
from bbqrec.ranking import Histories, Ranker
from bbqrec.recommender import (
    Popularity,
    RecommenderConfig,
    build_recommender,
    catalog_from_weights,
)
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import load_weights, read_json, read_tensors

DATASET_FILES = ("dataset.json", "ids.json", "sequences.safetensors")

logger = logging.getLogger(__name__)


class RecommendedItem(NamedTuple):
    item_id: str
    title: str
    log_probability: float


class Recommendation(NamedTuple):
    """One user's answer.

    Args:
        is_fallback: nothing in the history is known, so these are the most popular items.
        unknown_items: the ids in the history that the catalog does not have.
        num_recommendable: how many items there would be for a `k` without end.
    """

    items: list[RecommendedItem]
    is_fallback: bool
    unknown_items: list[str]
    num_recommendable: int


class Recommender:
    """Everything needed to recommend, loaded once and checked.

    Examples:
        >>> recommender = Recommender.from_pretrained("runs/demo")
        >>> recommender.recommend([["MUG-0042", "LAMP-0007"]], k=10)
    """

    def __init__(
        self,
        dataset: Dataset,
        semantic_ids: SemanticIds,
        model: torch.nn.Module,
        ranker: Ranker,
        *,
        available: Bool[Tensor, " item"] | None = None,
    ) -> None:
        """
        Args:
            available: False for items that are never recommended, whoever asks.
        """
        self.dataset = dataset
        self.semantic_ids = semantic_ids
        self.model = model
        self.ranker = ranker
        self.item_of_id = {item_id: item for item, item_id in enumerate(dataset.item_ids)}
        self.available = available
        self._loaded: tuple[RunFolder, str] | None = None
        counts = torch.from_numpy(dataset.popularity()) + 1.0
        self._fallback = Popularity((counts / counts.sum()).log().float())

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        *,
        revision: str | None = None,
        device: str = "cpu",
        version: int | None = None,
    ) -> "Recommender":
        """Load a run folder, what `save_pretrained` wrote, or a model of the Hugging Face hub.

        Args:
            path: a folder or, as text that names none, the hub's owner/name.
            revision: a branch, tag or commit of the hub.
            version: of a run that was updated: 0 is what was trained first; None the current one.

        Raises:
            CorruptArtifactError: a file is missing or damaged.
            SemanticIdError: the semantic IDs are not those the model was trained on.
            RequestError: there is no such folder, and no such model of the hub can be had.
        """
        folder = Path(path)
        if isinstance(path, str) and not folder.exists():
            folder = fetch(path, revision=revision)
        elif revision is not None:
            raise RequestError(
                f"a revision is for models of the Hugging Face hub, but {path} is a folder here; "
                "leave the revision out"
            )
        return cls.load(RunFolder(folder, version), device=device)

    @classmethod
    def load(cls, run: RunFolder, *, device: str = "cpu") -> "Recommender":
        """As `from_pretrained`, exactly this version."""
        path = run.root
        if not run.directory.is_dir():
            raise CorruptArtifactError(not_a_run(path))
        if is_pretrained(run.directory):
            verify_pretrained(run.directory)
        for stage in ("tokenize", "train"):
            run.verify(stage)
        run.verify("prepare", names=DATASET_FILES)
        dataset, ids = run.dataset(), run.trained_semantic_ids()
        folder = run.folder("train")
        settings = read_json(folder / "model.json")
        # Item numbers mean other items in another catalog, even in one of the same size.
        catalog = dataset.catalog_fingerprint
        if settings.get("catalog", catalog) != catalog or len(dataset.item_ids) != len(ids):
            raise CorruptArtifactError(
                f"{run.folder('prepare')} holds other items than {folder} was trained on; "
                f"`bbqrec run --out {path}` brings the run up to date"
            )
        config = RecommenderConfig.parse(settings["recommender"], source=f"{folder}/model.json")
        ranking = RankingConfig.parse(settings["ranking"], source=f"{folder}/model.json")
        weights = read_tensors(folder / "model.safetensors")
        try:
            model = build_recommender(config, *catalog_from_weights(weights))
        except KeyError as error:
            raise CorruptArtifactError(
                f"{folder}/model.safetensors lacks {error}: it is damaged or of another version of "
                f"bbqrec; `bbqrec run --out {path}` trains it again"
            ) from None
        load_weights(model, folder / "model.safetensors")
        model = model.to(device).eval()
        ranker = make_ranker(model, ids, ranking, device=device)
        recommender = cls(dataset, ids, model, ranker, available=_available(dataset))
        recommender._loaded = run, run.model_version()
        return recommender

    def save_pretrained(self, to: Path | str, *, with_users: bool = False) -> None:
        """Write what recommending needs into a folder to copy or share; see `from_pretrained`.

        Args:
            with_users: also write the users' ids and all that they did.

        Raises:
            RequestError: this was not loaded from a folder, or the folder has changed since.
            StorageError: `to` holds something else.
        """
        if self._loaded is None or self._loaded[0].model_version() != self._loaded[1]:
            raise RequestError(
                "only a recommender that is still as its folder has it can be saved; load it with "
                "from_pretrained and save that"
            )
        save_pretrained(self._loaded[0], Path(to), with_users=with_users)

    def histories(self) -> dict[str, list[str]]:
        """User id -> item ids, oldest first, of every user of the run, held-out items included."""
        item_ids = self.dataset.item_ids
        return {
            user_id: [item_ids[item] for item in history]
            for user_id, history in zip(
                self.dataset.user_ids, self.dataset.known_histories(), strict=True
            )
        }

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allowed: Collection[str] | None = None,
        excluded: Collection[str] = (),
        beam_width: int | None = None,
    ) -> list[Recommendation]:
        """The `k` best items for each history, an oldest-first list of item ids.

        Unknown ids in a history are passed over and reported; a history without any known id
        gets the most popular items, flagged. A list may be shorter than `k` when fewer items
        are allowed.

        Args:
            excluded: items that must not appear; unknown ids exclude nothing.
            beam_width: how many prefixes the search keeps, in place of the run's setting; where it
                scores all items there is nothing to keep.

        Raises:
            RequestError: k is not in 1..number of items, no allowed item is known, an id is not
                a string, or a beam is asked of a run that does not search.
        """
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise RequestError(
                "histories must be a list of lists of item ids, one list per user, for example "
                '[["a", "b"]]'
            )
        for item_id in chain(*histories, allowed or (), excluded):
            if not isinstance(item_id, str):
                raise RequestError(
                    f"item ids are strings, but {item_id!r} is of type {type(item_id).__name__}; "
                    f"write {str(item_id)!r}"
                )
        known = [
            [self.item_of_id[i] for i in history if i in self.item_of_id] for history in histories
        ]
        offsets = np.cumsum([0, *map(len, known)])
        batch = Histories(
            torch.tensor([item for history in known for item in history], dtype=torch.long),
            torch.from_numpy(offsets).long(),
        )
        mask = self._mask(allowed, excluded)
        ranker = self.ranker if beam_width is None else self._with_beam(beam_width)
        answers = ranker.rank(batch, k, exclude_seen=exclude_seen, allowed=mask)
        # One list does for everybody of whom nothing is known.
        nobody = Histories(torch.zeros(0, dtype=torch.long), torch.zeros(2, dtype=torch.long))
        popular = self._fallback.rank(nobody, k, exclude_seen=exclude_seen, allowed=mask)
        results = []
        for user, history in enumerate(histories):
            is_fallback = not known[user]
            ranking, row = (popular, 0) if is_fallback else (answers, user)
            rows = zip(ranking.items[row].tolist(), ranking.scores[row].tolist(), strict=True)
            results.append(
                Recommendation(
                    [self._describe(item, score) for item, score in rows if item >= 0],
                    is_fallback,
                    [item_id for item_id in history if item_id not in self.item_of_id],
                    self._num_recommendable(mask, known[user] if exclude_seen else []),
                )
            )
        return results

    def _num_recommendable(self, mask: Bool[Tensor, " item"] | None, seen: Sequence[int]) -> int:
        had = set(seen)
        if mask is None:
            return self.dataset.num_items - len(had)
        return int(mask.sum()) - sum(bool(mask[item]) for item in had)

    def _with_beam(self, beam_width: int) -> Ranker:
        if not isinstance(self.ranker, GenerativeRanker):
            raise RequestError(
                "a beam width is for runs that rank by generating semantic IDs "
                '(ranking.rank_by = "generative"); this run does not'
            )
        return replace(self.ranker, beam_width=beam_width)

    def _mask(
        self, allowed: Collection[str] | None, excluded: Collection[str]
    ) -> Bool[Tensor, " item"] | None:
        if allowed is None and not excluded:
            return self.available
        mask = torch.full((self.dataset.num_items,), allowed is None)
        if allowed is not None:
            mask[self._known_among(allowed)] = True
        mask[[self.item_of_id[i] for i in excluded if i in self.item_of_id]] = False
        return mask if self.available is None else mask & self.available

    def _known_among(self, allowed: Collection[str]) -> list[int]:
        items = [self.item_of_id[i] for i in allowed if i in self.item_of_id]
        if not items:
            raise RequestError(
                f"none of the {len(allowed)} allowed items is in the catalog of "
                f"{self.dataset.num_items} items; check that the ids are written alike"
            )
        if len(items) < len(allowed):
            logger.warning("%d allowed items are not in the catalog", len(allowed) - len(items))
        return items

    def _describe(self, item: int, score: float) -> RecommendedItem:
        return RecommendedItem(self.dataset.item_ids[item], self.dataset.titles[item], score)


def _available(dataset: Dataset) -> Bool[Tensor, " item"] | None:
    """Without what was withdrawn by the time of the run's latest update."""
    withdrawn = set(dataset.info.get("withdrawn", []))
    if withdrawn.isdisjoint(dataset.item_ids):
        return None
    return torch.tensor([item_id not in withdrawn for item_id in dataset.item_ids])
