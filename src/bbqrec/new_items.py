"""Items that came after training take their place in a trained recommender; no weight changes.

A newcomer has no vector of its own: its content and its codes speak for it, as for the cold items
that training saw without theirs.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bbqrec.bundle import RunFolder
from bbqrec.data import TEXT_SEPARATOR, Dataset, PostedItem
from bbqrec.decoding import GenerativeRanker, RankingConfig, make_ranker
from bbqrec.errors import FeatureError, RequestError
from bbqrec.features import Encoder, Features, load_encoder, standardize, standardize_like
from bbqrec.features.image_files import UnreadableImageError
from bbqrec.lineage import parent_of
from bbqrec.ranking import Ranker
from bbqrec.recommend import Recommender
from bbqrec.recommender import (
    Nearest,
    RecommenderConfig,
    build_recommender,
    catalog_from_weights,
    nearest_by_content,
    with_newcomers,
)
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import read_json, read_tensors
from bbqrec.tokenizer import Newcomers, NewContent, TokenizerConfig, tokenize_newcomers


class Placed(NamedTuple):
    """A posted item as the run's encoders see it: modality -> vector, where there is one."""

    item_id: str
    title: str
    vectors: dict[str, Tensor]
    has_picture: bool = False


class Extended(NamedTuple):
    """A recommender whose catalog goes on after the run's own, and where all its items lie.

    Args:
        likeness: unit vectors, by which similar items are found.
    """

    recommender: Recommender
    likeness: Tensor


class NewItems:
    """Makes a run's recommender know posted items."""

    def __init__(self, run: RunFolder, recommender: Recommender) -> None:
        self._run = run
        self._recommender = recommender
        self._encoders: dict[str, Encoder] = {}
        self._nearest: dict[str, Nearest] = {}  # see `_near`
        self._maps: dict[str, tuple[Tensor, Tensor]] = {}  # see `_content`

    def encode(self, item: PostedItem) -> Placed:
        """Let the encoders that the run was trained with read an item.

        Raises:
            RequestError: the image cannot be used, or the encoders find nothing in the item.
            FeatureError: an encoder of the run is gone or no longer the same.
        """
        words = [part.strip() for part in (item.title, item.text or "") if part.strip()]
        contents = {"text": TEXT_SEPARATOR.join(words) or None, "image": item.image}
        vectors = {}
        for f in self._features:
            content = contents.get(f.identity["source"])
            if content is None:
                continue
            folder = self._run.folder("encode") / "encoders" / f.modality
            if f.modality not in self._encoders:
                self._encoders[f.modality] = load_encoder(folder)
            try:
                vector = self._encoders[f.modality].encode([content])[0]
            except UnreadableImageError as error:
                raise RequestError(f"the image cannot be used: {error}") from None
            if vector.any() and vector.isfinite().all():
                vectors[f.modality] = vector
        if not vectors:
            raise RequestError(
                "the run's encoders find nothing they know in this item; describe it in words "
                "like those of the catalog, or send a picture if the run reads pictures"
            )
        return Placed(item.item_id, item.title or item.item_id, vectors, item.image is not None)

    @property
    def reads_pictures(self) -> bool:
        """Whether the run was trained with pictures."""
        return any(f.identity["source"] == "image" for f in self._features)

    def extend(self, posted: Sequence[Placed]) -> Extended:
        """The recommender with `posted` after the run's own items, in that order.

        Raises:
            SemanticIdError: the run's tokenizer has no semantic ID to give.
        """
        if not posted:
            return Extended(self._recommender, _directions(self._likeness, self._likeness))
        vectors = [item.vectors for item in posted]
        content = {f.modality: _rows(f, vectors) for f in self._features}
        recommender, newcomers = self.take_in(
            [item.item_id for item in posted], [item.title for item in posted], content
        )
        likeness = torch.cat([self._likeness, newcomers.item_vectors["fused"]])
        return Extended(recommender, _directions(self._likeness, likeness))

    def take_in(
        self, item_ids: Sequence[str], titles: Sequence[str], content: dict[str, NewContent]
    ) -> tuple[Recommender, Newcomers]:
        """The recommender with new items after the run's own, and what the tokenizer says of them.

        Args:
            content: modality -> the new items' vectors.

        Raises:
            SemanticIdError: the run's tokenizer has no semantic ID to give.
        """
        base = self._recommender
        codes = base.semantic_ids.codes
        catalog, is_seen = self._run.tokenized(base.dataset, self._features)
        newcomers = tokenize_newcomers(
            self._tokenizer, self._weights, catalog, content, codes, is_seen
        )
        ids = SemanticIds(torch.cat([codes, newcomers.codes]), base.semantic_ids.codebook_sizes)
        model = self._model(content, newcomers, ids)
        dataset = replace(
            base.dataset,
            item_ids=[*base.dataset.item_ids, *item_ids],
            titles=[*base.dataset.titles, *titles],
            is_cold=np.append(base.dataset.is_cold, np.ones(len(item_ids), bool)),
        )
        index = None
        if isinstance(base.ranker, GenerativeRanker):
            index = base.ranker.index.add(newcomers.codes)
        ranker = make_ranker(model, ids, self.ranking, index=index)
        available = base.available
        if available is not None:
            available = F.pad(available, (0, len(item_ids)), value=True)
        return Recommender(dataset, ids, model, ranker, available=available), newcomers

    def _model(
        self, content: dict[str, NewContent], newcomers: Newcomers, ids: SemanticIds
    ) -> torch.nn.Module:
        """The same weights over longer tables."""
        num_new = len(newcomers.codes)
        features = {f.modality: f for f in self._origin}
        state = dict(self._recommender.model.state_dict())
        more: dict[str, Tensor] = {
            "catalog.codes": newcomers.codes,
            "catalog.is_unseen": torch.ones(num_new, dtype=torch.bool),
        }
        for name in state:
            place, _, rest = name.partition(".")
            group, _, modality = rest.partition(".")
            if name == "item_vectors.id_vectors":
                more[name] = torch.zeros(num_new, state[name].shape[1])
            elif place != "catalog":
                continue
            elif group == "content":
                more[name] = self._content(features[modality], state[name], content[modality])
            elif group in ("is_present", "similarity_present"):
                everyone = torch.ones(num_new, dtype=torch.bool)  # "quantized" is no modality
                known = content.get(modality)
                more[name] = everyone if known is None else known.is_present
            elif group == "similarity":
                more[name] = self._similarity(modality, content, newcomers)
        for name, rows in more.items():
            state[name] = torch.cat([state[name], rows.to(state[name].dtype)])
        for name, neighbors in catalog_from_weights(state)[0].neighbors.items():
            num_nearest = neighbors.items.shape[2]
            nearest = self._near(name, content[name], num_nearest) if name in features else None
            found = with_newcomers(neighbors, num_new, nearest)
            state[f"catalog.neighbor_items.{name}"] = found.items
            state[f"catalog.neighbor_buckets.{name}"] = found.buckets
        model = build_recommender(self._config, *catalog_from_weights(state))
        for name, wanted in model.state_dict().items():
            if wanted.shape != state[name].shape:  # prefixes that no item had have learned nothing
                rows = wanted.new_zeros(len(wanted) - len(state[name]), *wanted.shape[1:])
                state[name] = torch.cat([state[name], rows])
        model.load_state_dict(state)
        return model.eval()

    def _content(self, features: Features, table: Tensor, new: NewContent) -> Tensor:
        """The map from the run's features to the table that the model reads, for other rows.

        It is found from both, since the directions kept may differ in sign from machine to machine.
        """
        if features.modality not in self._maps:
            around = features.vectors[features.is_present].double()
            mean = around.mean(0)
            wanted = table[: len(features.vectors)][features.is_present].double()
            found = torch.linalg.lstsq(around - mean, wanted, driver="gelsd").solution
            self._maps[features.modality] = mean, found
        mean, weights = self._maps[features.modality]
        rows: Tensor = (new.vectors.double() - mean) @ weights * new.is_present[:, None]
        return rows.float()

    def _near(self, name: str, new: NewContent, num_nearest: int) -> Nearest:
        """The nearest of all items by a modality; those of the run's own are found once."""
        units = self._units(name, new)
        if name not in self._nearest:
            num_known = len(units) - len(new.vectors)
            self._nearest[name] = nearest_by_content(units[:num_known], num_nearest)
        return nearest_by_content(units, num_nearest, self._nearest[name])

    def _units(self, name: str, new: NewContent) -> Tensor:
        """Directions of all items, by which content makes neighbors."""
        origin = next(f for f in self._origin if f.modality == name)
        features = next(f for f in self._features if f.modality == name)
        vectors, is_present = (
            torch.cat(parts)
            for parts in zip((features.vectors, features.is_present), new, strict=True)
        )
        whole = standardize_like(origin, vectors, is_present)
        around = whole[: len(origin.vectors)][origin.is_present]
        return _directions(around, whole) * is_present[:, None]

    def _similarity(
        self, name: str, content: dict[str, NewContent], newcomers: Newcomers
    ) -> Tensor:
        """Directions around the run's own mean, as its catalog's are."""
        source = self._config.similarity.source
        if source == "features":
            features = next(f for f in self._origin if f.modality == name)
            vectors, is_present = content[name]
            around = features.vectors[features.is_present]
        elif source == "aligned":
            key = f"aligned.{name}"
            features = next(f for f in self._origin if f.modality == name)
            vectors, is_present = newcomers.item_vectors[key], content[name].is_present
            around = self._item_vectors[key][: len(features.vectors)][features.is_present]
        else:
            vectors = newcomers.item_vectors["quantized"]
            is_present = torch.ones(len(vectors), dtype=torch.bool)
            around = self._item_vectors["quantized"][: len(self._origin[0].vectors)]
        return _directions(around, vectors) * is_present[:, None]

    @cached_property
    def _features(self) -> list[Features]:
        self._run.verify("encode")
        return self._run.features(self._run.dataset())

    @cached_property
    def _origin(self) -> list[Features]:
        """Those of the items that the recommender was built for, before any update: whatever is
        measured from the middle of the catalog is measured from the middle of these."""
        return self._run.built_for(self._features)

    @cached_property
    def _item_vectors(self) -> dict[str, Tensor]:
        return read_tensors(self._run.folder("tokenize") / "item_vectors.safetensors")

    @cached_property
    def _likeness(self) -> Tensor:
        """What the tokenizer learned of every item or, where IDs were brought along, content."""
        fused = self._item_vectors.get("fused")
        if fused is not None:
            return fused
        return torch.cat([standardize(f) for f in self._features], 1)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return read_tensors(self._run.folder("tokenize") / "weights.safetensors")

    @cached_property
    def _tokenizer(self) -> TokenizerConfig:
        path = self._run.config_path
        return TokenizerConfig.parse(read_json(path)["tokenizer"], source=str(path))

    @cached_property
    def _config(self) -> RecommenderConfig:
        path = self._run.folder("train") / "model.json"
        return RecommenderConfig.parse(read_json(path)["recommender"], source=str(path))

    @cached_property
    def ranking(self) -> RankingConfig:
        """How the run ranks."""
        path = self._run.folder("train") / "model.json"
        return RankingConfig.parse(read_json(path)["ranking"], source=str(path))


def ranker_before(run: RunFolder, dataset: Dataset, *, device: str = "cpu") -> Ranker | None:
    """What the version that a run was updated from answers, had the new items been posted to it.

    None where the run was not updated, or the version before is gone.
    """
    parent = parent_of(run)
    if parent is None:
        return None
    recommender = Recommender.load(parent)
    num_known = recommender.dataset.num_items
    maker = NewItems(parent, recommender)
    if num_known < dataset.num_items:
        content = new_content(run.features(dataset), num_known)
        new = slice(num_known, None)
        recommender, _ = maker.take_in(dataset.item_ids[new], dataset.titles[new], content)
    model = recommender.model.to(device)
    return make_ranker(model, recommender.semantic_ids, maker.ranking, device=device)


def new_content(features: list[Features], num_known: int) -> dict[str, NewContent]:
    """Modality -> the vectors of all items but the first `num_known`."""
    return {
        f.modality: NewContent(f.vectors[num_known:], f.is_present[num_known:]) for f in features
    }


def _rows(features: Features, vectors: Sequence[dict[str, Tensor]]) -> NewContent:
    """One row per new item; zeros where it lacks the modality."""
    found = [item.get(features.modality) for item in vectors]
    for vector in found:
        if vector is not None and vector.shape != (features.dim,):
            raise FeatureError(
                f"the {features.modality} encoder gives vectors of {len(vector)} dimensions, the "
                f"run was trained on {features.dim}; run `bbqrec encode` again"
            )
    empty = torch.zeros(features.dim)
    rows = torch.stack([empty if vector is None else vector for vector in found])
    return NewContent(rows, torch.tensor([vector is not None for vector in found]))


def _directions(around: Tensor, vectors: Tensor) -> Tensor:
    """Unit vectors as seen from the mean of `around`."""
    mean = around.double().mean(0) if len(around) else 0.0
    return F.normalize(vectors.double() - mean, dim=-1).float()
