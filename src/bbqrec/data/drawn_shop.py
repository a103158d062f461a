"""The drawn shop: a generated catalog whose shoppers follow a known law of taste.

Every item has a kind and a look; text and picture both show them, each among details of its own
that no shopper ever sees. Shoppers live in styles (regions of the looks) and move between them;
what they buy depends on the style, on the kind bought last and on an item's fame, nothing else:

    p(style z' after z)  =  A[z, z']
    p(item j | style z, last kind k, bought B)  ∝  exp(W[z, j] + T[k, kind_j])   for j not in B

The law is simple enough to be filtered exactly, so the `Oracle` is the best any recommender can do.
"""

from collections.abc import Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.data.drawn_words import KINDS, PATTERNS, draw_text_nuisance, write_text
from bbqrec.errors import DataError
from bbqrec.ranking import Histories, Ranking, top_items
from bbqrec.storage import read_json, read_tensors, write_bytes, write_json, write_tensors

MIN_PURCHASES, MAX_PURCHASES = 5, 25
_NEVER = -1e4  # added to the log-probability of what is bought already: nobody buys twice


class _Looks(NamedTuple):
    """What items (or styles) look like; one array entry per item."""

    kind: NDArray[np.int64]
    hue: NDArray[np.float64]
    light: NDArray[np.float64]
    proportion: NDArray[np.float64]
    pattern: NDArray[np.int64]

    def taste(self) -> NDArray[np.float64]:
        """A point per item in the space in which shoppers compare: (item, dim)."""
        hue, pattern = 2 * np.pi * self.hue, 2 * np.pi * self.pattern / len(PATTERNS)
        return np.stack(
            [
                *(np.cos(hue), np.sin(hue)),
                *(0.8 * np.cos(pattern), 0.8 * np.sin(pattern)),
                *(0.8 * self.light, 0.8 * self.proportion),
            ],
            axis=1,
        )


def draw_shop(directory: Path, *, seed: int, num_items: int = 800, num_users: int = 3000) -> None:
    """Write a dataset folder: interactions, items and images as Parquet, and the truth behind them.

    Another seed is another shop. The truth (`truth.json`, `truth.safetensors`) is for `Oracle` and
    for tests; no model may read it.
    """
    # Only here: `bbqrec.data` must import without Pillow (and polars, below).
    from bbqrec.data.drawn_pictures import Nuisance, draw_picture, draw_picture_nuisance

    if num_items < 50 or num_users < 1:
        raise DataError(
            f"a drawn shop needs at least 50 items and 1 user, not {num_items} and {num_users}"
        )
    for_looks, for_words, for_pictures, for_shoppers = (
        np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(4)
    )
    looks, law = _invent(num_items, for_looks)
    picture = draw_picture_nuisance(num_items, for_pictures)
    text = draw_text_nuisance(num_items, for_words)
    users, items, times = _go_shopping(law, num_users, for_shoppers)

    item_ids = [
        f"{KINDS[kind].upper()}-{number:04d}"
        for kind, number in zip(looks.kind, for_looks.permutation(num_items), strict=True)
    ]
    width = len(str(num_users))
    columns = [column.tolist() for column in looks]  # plain numbers, one list per trait
    texts = [write_text(*look) for look in zip(*columns, text, strict=True)]
    details = (Nuisance(*one) for one in zip(*picture, strict=True))
    pictures = [draw_picture(*look) for look in zip(*columns, details, strict=True)]
    _write_table(
        directory / "interactions.parquet",
        user_id=[f"shopper-{user:0{width}d}" for user in users],
        item_id=[item_ids[item] for item in items],
        timestamp=times.tolist(),
    )
    titles, descriptions = zip(*texts, strict=True)
    _write_table(
        directory / "items.parquet", item_id=item_ids, title=titles, description=descriptions
    )
    _write_table(directory / "images.parquet", item_id=item_ids, bytes=pictures)
    truth = {
        **law,
        "taste": looks.taste(),
        "picture_nuisance": np.stack(picture, axis=1),
        "text_nuisance": text,
    }
    write_tensors(
        directory / "truth.safetensors",
        {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in truth.items()},
    )
    write_json(directory / "truth.json", {"item_ids": item_ids, "seed": seed})


def _write_table(path: Path, **columns: Sequence[Any]) -> None:
    import polars as pl

    file = BytesIO()
    pl.DataFrame(columns).write_parquet(file)
    write_bytes(path, file.getvalue())


def _invent(
    num_items: int, generator: np.random.Generator
) -> tuple[_Looks, dict[str, NDArray[Any]]]:
    """The catalog and the law of its shoppers (log-probabilities, see the module's formula)."""
    num_styles = min(24, max(4, num_items // 25))
    # Styles spread over the color wheel in random order, so that neighbors differ otherwise.
    center = _Looks(
        np.zeros(num_styles, dtype=np.int64),
        (generator.permutation(num_styles) + generator.uniform(0, 1, num_styles)) / num_styles,
        generator.uniform(-0.8, 0.8, num_styles),
        generator.uniform(-0.8, 0.8, num_styles),
        generator.integers(len(PATTERNS), size=num_styles),
    )
    style = generator.integers(num_styles, size=num_items)
    # Some items wear another pattern than their style's: taste is not the style's number.
    other_pattern = generator.integers(len(PATTERNS), size=num_items)
    looks = _Looks(
        generator.integers(len(KINDS), size=num_items),
        (center.hue[style] + generator.normal(0, 0.03, num_items)) % 1,
        np.clip(center.light[style] + generator.normal(0, 0.2, num_items), -1, 1),
        np.clip(center.proportion[style] + generator.normal(0, 0.2, num_items), -1, 1),
        np.where(generator.random(num_items) < 0.15, other_pattern, center.pattern[style]),
    )
    squared_distance = np.square(center.taste()[:, None] - looks.taste()[None]).sum(2)
    fame = generator.normal(0, 0.8, num_items)  # log-normal: few items sell much, many little

    # A shopper stays, moves on to the style that follows this one on a ring, or goes anywhere.
    ring = generator.permutation(num_styles)
    follows = np.zeros((num_styles, num_styles))
    follows[ring, np.roll(ring, -1)] = 1
    style_after = 0.85 * np.eye(num_styles) + 0.12 * follows + 0.03 / num_styles
    # After each kind, two others are wanted most: a teapot calls for mugs.
    order = generator.permutation(len(KINDS))
    kind_after = np.full((len(KINDS) + 1, len(KINDS)), 1.0)  # last row: nothing was bought yet
    kind_after[order, np.roll(order, -1)] += 9
    kind_after[order, np.roll(order, -3)] += 4
    return looks, {
        "kind": looks.kind,
        "style": style,
        "log_item": -squared_distance / (2 * 0.35**2) + fame,
        "log_style_after": np.log(style_after),
        "log_kind_after": np.log(kind_after),
    }


def _go_shopping(
    law: dict[str, NDArray[Any]], num_users: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """User, item and Unix time of every purchase, in the order of time."""
    kind, log_item = law["kind"], law["log_item"].astype(np.float32)
    num_styles, num_items = log_item.shape
    longest = min(MAX_PURCHASES, num_items // 2)
    lengths = np.minimum(MIN_PURCHASES + generator.geometric(1 / 5, num_users) - 1, longest)
    style = generator.integers(num_styles, size=num_users)
    last_kind = np.full(num_users, len(KINDS))
    is_bought = np.zeros((num_users, num_items), dtype=np.bool_)
    bought = np.zeros((num_users, longest), dtype=np.int64)
    style_cdf = np.exp(law["log_style_after"]).cumsum(1)
    kind_after = law["log_kind_after"].astype(np.float32)
    for step in range(longest):
        users = np.flatnonzero(lengths > step)
        logits = log_item[style[users]] + kind_after[last_kind[users]][:, kind]
        logits[is_bought[users]] = -np.inf
        # Gumbel-max: the largest of log-probability plus Gumbel noise is a draw from the law.
        item = (logits + generator.gumbel(size=logits.shape)).argmax(1)
        bought[users, step], is_bought[users, item], last_kind[users] = item, True, kind[item]
        step_up = generator.random((len(users), 1)) > style_cdf[style[users]]
        style[users] = np.minimum(step_up.sum(1), num_styles - 1)

    is_used = np.arange(longest) < lengths[:, None]
    start = int(datetime.fromisoformat("2025-01-01T00:00:00+00:00").timestamp())
    first = generator.integers(start, start + 250 * 86_400, size=(num_users, 1))
    gaps = 60 + np.int64(4 * 86_400 * generator.standard_exponential(bought.shape))
    times = (first + gaps.cumsum(1))[is_used]
    users, items = np.nonzero(is_used)[0], bought[is_used]
    by_time = times.argsort(kind="stable")
    return users[by_time], items[by_time], times[by_time]


class Oracle:
    """Ranks by the true probability of the next purchase: the law is known, the draws are not.

    Keeps, for every shopper, the exact posterior over styles given the history (the forward
    algorithm of a hidden Markov model), so no recommender can have a higher expected recall.
    Items bought before come last: in this shop nobody buys twice.
    """

    def __init__(self, truth: dict[str, Tensor]) -> None:
        self._kind = truth["kind"]
        self._item = truth["log_item"].exp()
        self._kind_after = truth["log_kind_after"].exp()
        self._style_after = truth["log_style_after"].exp()
        num_kinds = self._kind_after.shape[1]
        by_kind = self._item.new_zeros(self._item.shape[0], num_kinds)
        # What a style's items of each kind weigh together: (style, kind)
        self._by_kind = by_kind.index_add(1, self._kind, self._item)

    @classmethod
    def load(cls, directory: Path, item_ids: list[str]) -> "Oracle":
        """The oracle of a drawn shop for items in the order of `Dataset.item_ids`.

        Raises:
            DataError: an item is not of this shop.
        """
        row_of = {item_id: row for row, item_id in enumerate(_item_ids(directory))}
        unknown = [item_id for item_id in item_ids if item_id not in row_of]
        if unknown:
            raise DataError(f"the item {unknown[0]!r} is not of the drawn shop in {directory}")
        truth = read_tensors(directory / "truth.safetensors")
        rows = torch.tensor([row_of[item_id] for item_id in item_ids])
        for_items = {"kind": truth["kind"][rows], "log_item": truth["log_item"][:, rows]}
        return cls({**truth, **for_items})

    def log_probabilities(self, histories: Histories) -> Float[Tensor, "batch item"]:
        """Log-probability of each item being the next purchase."""
        items, lengths = histories.latest(int(histories.offsets.diff().max().clamp(min=1)))
        batch, num_styles = len(items), len(self._item)
        rows = torch.arange(batch)
        belief = self._item.new_full((batch, num_styles), 1 / num_styles)
        bought = self._item.new_zeros(batch, *self._by_kind.shape)  # weight per style and kind
        last_kind = torch.full((batch,), self._by_kind.shape[1])
        for position in range(items.shape[1]):
            is_used = position < lengths
            item = items[:, position].clamp(min=0)
            seen = belief * self._item[:, item].T / self._total(bought, last_kind)
            seen = seen / seen.sum(1, keepdim=True) @ self._style_after
            belief = torch.where(is_used[:, None], seen, belief)
            bought[rows, :, self._kind[item]] += self._item[:, item].T * is_used[:, None]
            last_kind = torch.where(is_used, self._kind[item], last_kind)
        of_style = (belief / self._total(bought, last_kind)) @ self._item  # (batch, item)
        scores = (of_style * self._kind_after[last_kind][:, self._kind]).log()
        scores[histories.rows(), histories.items] += _NEVER
        return scores.float()

    def _total(
        self, bought: Float[Tensor, "batch style kind"], last_kind: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch style"]:
        """The law's normalizer: what is left to buy, in each style."""
        left = (self._by_kind - bought).clamp(min=1e-12)
        return torch.einsum("bsk,bk->bs", left, self._kind_after[last_kind])

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """See `bbqrec.ranking.Ranker`."""
        scores = self.log_probabilities(histories)
        return top_items(scores, histories, k, exclude_seen=exclude_seen, allowed=allowed)


def _item_ids(directory: Path) -> list[str]:
    ids: list[str] = read_json(directory / "truth.json")["item_ids"]
    return ids
