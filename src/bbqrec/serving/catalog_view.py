"""What the page shows of a run: items by name and by semantic ID, pictures, facts."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from pydantic import BaseModel

from bbqrec.errors import ConflictError, NotFoundError
from bbqrec.report import coded, learned, measured, spread
from bbqrec.serving.code_tree import Branch, CodeTree
from bbqrec.serving.thumbnails import Thumbnails
from bbqrec.serving.title_search import TitleSearch, plain
from bbqrec.serving.version import Version
from bbqrec.storage import read_json

STAGES = ("prepare", "encode", "tokenize", "train", "evaluate")
NUM_EXAMPLES = 8
NUM_IN_EXAMPLE = 5
NUM_ON_CARD = 8


class RunView:
    """What posted and withdrawn items do not change. Used by one thread at a time."""

    def __init__(self, version: Version) -> None:
        self.run = version.run
        self._new_items = version.new_items
        self.version_name = version.name
        dataset = version.recommender.dataset
        self.num_items = dataset.num_items - len(version.posted)
        self._dataset = dataset
        self._popularity = version.popularity[: self.num_items]
        self.labels = version.explainer_of_run.labels
        self.thumbnails = Thumbnails(self.run.folder("prepare"))

    def is_of(self, version: Version) -> bool:
        """Whether `version` differs in posted and withdrawn items only."""
        return version.new_items is self._new_items

    @cached_property
    def search(self) -> TitleSearch:
        titles, ids = self._dataset.titles, self._dataset.item_ids
        return TitleSearch(titles[: self.num_items], ids[: self.num_items], self._popularity)

    def check_is_served(self) -> None:
        """ConflictError unless the run folder still holds what this server answers with."""
        if self.run.model_version() != self.version_name:
            raise ConflictError(
                "the run folder holds another version by now than the one that answers here; let "
                "the server take it over (kill -HUP, or POST /v1/admin/reload)"
            )

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything of `RunOut`."""
        self.check_is_served()
        info = self._dataset.info
        manifests = {}
        for stage in STAGES:
            if (self.run.folder(stage) / "manifest.json").is_file():
                manifests[stage] = self.run.manifest(stage)
        model = read_json(self.run.folder("train") / "model.json")
        scores = _plain(measured(self.run)) if "evaluate" in manifests else None
        if scores is not None:
            evaluation = scores.pop("evaluation")
            scores |= {
                name: evaluation[name]
                for name in ("num_cases", "num_items", "num_repeat_targets", "reference")
            }
        codes = coded(self.run)
        ids = codes.pop("semantic_ids")
        return {
            "model_version": self.version_name,
            "source": str(info["source"]),
            "num_users": self._dataset.num_users,
            "num_items": self.num_items,
            "num_interactions": info["statistics"]["interactions"],
            "num_parameters": model["num_parameters"],
            "rank_by": model["ranking"]["rank_by"],
            "finished": max(manifest["finished"] for manifest in manifests.values()),
            "seconds": {stage: manifest["seconds"] for stage, manifest in manifests.items()},
            "warnings": list(info["warnings"]),
            "measured": scores,
            "codes": {
                **_plain(codes),
                "codebook_sizes": list(ids.codebook_sizes),
                "collision_rate": ids.collision_rate,
            },
            "learned": _plain(learned(self.run)),
        }


class CatalogView:
    """A version's catalog as the page shows it: posted items in, withdrawn ones out."""

    def __init__(self, run: RunView, version: Version) -> None:
        self.run = run
        self.version = version
        self._dataset = version.recommender.dataset
        known = version.recommender.item_of_id
        self._hidden = {known[item_id] for item_id in version.withdrawn if item_id in known}

    @cached_property
    def tree(self) -> CodeTree:
        ids = self.version.recommender.semantic_ids
        return CodeTree(ids, self.version.popularity, sorted(self._hidden))

    def about(self, history_of: Callable[[Version, str], list[str]]) -> dict[str, Any]:
        """`CatalogOut`.

        Args:
            history_of: what may be shown of a user of the run.
        """
        ids = self.version.recommender.semantic_ids
        return {
            "model_version": self.version.name,
            "source": str(self._dataset.info["source"]),
            "num_items": self._dataset.num_items - len(self._hidden),
            "num_users": self._dataset.num_users,
            "num_levels": ids.num_levels,
            "has_pictures": self.run.thumbnails.are_there,
            "picture_ratio": self.run.thumbnails.ratio,
            "examples": self._examples(history_of),
        }

    def find(self, query: str, k: int) -> dict[str, Any]:
        """`FoundOut`: posted items first, for whoever posted one looks for it."""
        words = plain(query).split()
        posted = range(self.run.num_items, self._dataset.num_items) if words else ()
        found = [item for item in posted if self._has_all(item, words)]
        found += self.run.search.find(query, k + len(self._hidden))
        shown = [item for item in found if item not in self._hidden]
        return {"model_version": self.version.name, "items": self._cards(shown[:k])}

    def branch(self, prefix: tuple[int, ...], order: str, start: int, k: int) -> dict[str, Any]:
        """`BranchOut`; NotFoundError where no item begins with `prefix`."""
        here = self._branch(prefix)
        level = len(prefix)
        inner = self.tree.next_codes(prefix)
        is_last = level == self.tree.num_levels
        if order != "code":
            inner.sort(key=lambda b: -(b.times_taken if order == "taken" else len(b.items)))
        return {
            "model_version": self.version.name,
            "prefix": list(prefix),
            "path": [self._code(self._branch(prefix[:end])) for end in range(1, level + 1)],
            "num_levels": self.tree.num_levels,
            "size": len(here.items),
            "times_taken": here.times_taken,
            "num_colliding": here.num_colliding,
            "codebook_size": None if is_last else self.tree.codebook_sizes[level],
            "sizes": {str(branch.prefix[-1]): len(branch.items) for branch in inner},
            "dead_codes": [] if is_last else self.tree.dead_codes(level),
            "num_codes": len(inner),
            "codes": [self._code(branch) for branch in inner[start : start + k]],
        }

    def items(self, prefix: tuple[int, ...], start: int, k: int) -> dict[str, Any]:
        """`BranchItemsOut`, in the order of the codes."""
        here = self._branch(prefix)
        codes = self.version.recommender.semantic_ids.codes
        items = [int(item) for item in here.items[start : start + k]]
        cards = self._cards(items)
        for card, item in zip(cards, items, strict=True):
            card["semantic_id"] = codes[item].tolist()
            card["times_taken"] = int(self.version.popularity[item])
        return {"model_version": self.version.name, "size": len(here.items), "items": cards}

    def _branch(self, prefix: tuple[int, ...]) -> Branch:
        branch = self.tree.branch(prefix)
        if not len(branch.items) and prefix:
            raise NotFoundError("no item's semantic ID begins with these codes")
        return branch

    def _code(self, branch: Branch) -> dict[str, Any]:
        return {
            "code": branch.prefix[-1],
            "size": len(branch.items),
            "times_taken": branch.times_taken,
            "num_colliding": branch.num_colliding,
            "label": self.run.labels.of(branch.prefix),
            "items": self._cards(spread(torch.from_numpy(branch.items), NUM_ON_CARD)),
        }

    def _cards(self, items: Sequence[int]) -> list[dict[str, Any]]:
        cards = []
        for item in items:
            item_id = self._dataset.item_ids[item]
            place = item - self.run.num_items  # among the posted ones
            posted = self.version.posted[place] if place >= 0 else None
            has_picture = posted.has_picture if posted else item_id in self.run.thumbnails
            title = " ".join(self._dataset.titles[item].split()) or item_id
            cards.append({"item_id": item_id, "title": title, "has_picture": has_picture})
        return cards

    def _examples(
        self, history_of: Callable[[Version, str], list[str]]
    ) -> list[list[dict[str, Any]]]:
        """The latest items of users evenly spaced over all: histories to begin with."""
        users = self._dataset.user_ids
        step = max(1, len(users) // NUM_EXAMPLES)
        known = self.version.recommender.item_of_id
        found = []
        for user_id in users[::step][:NUM_EXAMPLES]:
            items = [known[item_id] for item_id in history_of(self.version, user_id)]
            shown = [item for item in items if item not in self._hidden][-NUM_IN_EXAMPLE:]
            if shown:
                found.append(self._cards(shown))
        return found

    def _has_all(self, item: int, words: Sequence[str]) -> bool:
        text = plain(f"{self._dataset.titles[item]} {self._dataset.item_ids[item]}")
        return all(word in text for word in words)


def _plain(value: Any) -> Any:
    """What JSON has; named tuples become objects."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
