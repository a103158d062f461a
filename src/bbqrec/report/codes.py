"""What the codes mean: walls of the items that share a prefix, and how much each code is used."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from bbqrec.report.pictures import Pictures
from bbqrec.report.words import TellingWords
from bbqrec.semantic_ids import SemanticIds

NUM_LARGEST = 6
NUM_SAMPLED = 4
NUM_OPENED = 2
NUM_PREFIXES = 6
NUM_PICTURES = 24
NUM_PICTURES_OPENED = 12
NUM_COMPANIONS = 3


class Group(NamedTuple):
    """Items that share a prefix of codes; `items` are those shown, out of `size`."""

    prefix: tuple[int, ...]
    size: int
    words: list[str]
    items: list[int]
    inner: "list[Group]"
    num_hidden: int
    """Inner groups that are not shown."""


class Level(NamedTuple):
    """Use of one level's codes: `path` draws the counts, largest first, in a unit-wide SVG."""

    path: str
    num_codes: int
    num_used: int
    perplexity: float
    largest: int


class Step(NamedTuple):
    """One more code of the example item, and how many items still share it."""

    prefix: tuple[int, ...]
    size: int
    items: list[int]


def show_wall(ids: SemanticIds, texts: list[str], pictures: Pictures) -> list[Group]:
    """The largest first-level codes and a sample of the others, the first ones opened up.

    One item is no group: codes of a single item are shown only where there are no others.

    `texts` say what each item is, in item order.
    """
    words = TellingWords(texts)
    first = ids.codes[:, 0]
    largest_first = _shared(first)
    rest = largest_first[NUM_LARGEST:]
    shown = largest_first[:NUM_LARGEST] + rest[:: max(1, -(-len(rest) // NUM_SAMPLED))]
    groups = []
    for place, code in enumerate(shown):
        group = _group(ids, (code,), words, pictures, number=NUM_PICTURES)
        if place < NUM_OPENED and ids.num_levels > 1:
            group = _open(ids, group, words, pictures)
        groups.append(group)
    return groups


def _open(ids: SemanticIds, group: Group, words: TellingWords, pictures: Pictures) -> Group:
    """The group with its largest second-level groups, which do not repeat its words."""
    second = ids.codes[ids.codes[:, 0] == group.prefix[0], 1]
    inner = [
        _group(
            ids,
            (*group.prefix, code),
            words,
            pictures,
            number=NUM_PICTURES_OPENED,
            without=group.words,
        )
        for code in _shared(second)[:NUM_PREFIXES]
    ]
    return group._replace(inner=inner, num_hidden=len(set(second.tolist())) - len(inner))


def _group(
    ids: SemanticIds,
    prefix: tuple[int, ...],
    words: TellingWords,
    pictures: Pictures,
    *,
    number: int,
    without: Collection[str] = (),
) -> Group:
    """The items that begin with `prefix`, `number` of them shown."""
    is_member = (ids.codes[:, : len(prefix)] == torch.tensor(prefix)).all(1)
    members = is_member.nonzero().flatten()
    items = pictures.want(spread(_sorted(ids, members), number))
    return Group(prefix, len(members), words.of(is_member, without=without), items, [], 0)


def example_item(ids: SemanticIds, pictures: Pictures) -> list[Step]:
    """The semantic ID of the item with the most company in its first two codes, step by step."""
    depth = min(2, ids.num_levels)
    _, inverse, counts = np.unique(
        ids.codes[:, :depth].numpy(), axis=0, return_inverse=True, return_counts=True
    )
    item = int(counts[inverse.ravel()].argmax())
    steps = []
    for length in range(1, ids.num_levels + 1):
        prefix = ids.codes[item, :length]
        members = (ids.codes[:, :length] == prefix).all(1).nonzero().flatten()
        others = spread(members[members != item], NUM_COMPANIONS)
        items = pictures.want([item, *others])
        steps.append(Step(tuple(prefix.tolist()), len(members), items))
    return steps


def show_levels(ids: SemanticIds) -> list[Level]:
    """Use of the codes, level by level."""
    levels = []
    for level, num_codes in enumerate(ids.codebook_sizes):
        counts = torch.bincount(ids.codes[:, level], minlength=num_codes)
        counts = counts.sort(descending=True).values
        shares = counts.double() / counts.sum().clamp(min=1)
        heights = (100 * counts / counts[0].clamp(min=1)).tolist()
        bars = "".join(
            f"M{100 * i / num_codes:.3f} 100v{-height:.2f}h{82 / num_codes:.3f}v{height:.2f}z"
            for i, height in enumerate(heights)
            if height
        )
        levels.append(
            Level(
                path=bars,
                num_codes=num_codes,
                num_used=int((counts > 0).sum()),
                perplexity=float(torch.special.entr(shares).sum().exp()),
                largest=int(counts[0]),
            )
        )
    return levels


def _shared(codes: Int[Tensor, " item"]) -> list[int]:
    """Codes that several items have, or all if there are none; those of most items first."""
    used, counts = np.unique(codes.numpy(), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    num_shared = int((counts > 1).sum()) or len(used)
    return [int(code) for code in used[order[:num_shared]]]


def _sorted(ids: SemanticIds, items: Int[Tensor, " member"]) -> Int[Tensor, " member"]:
    """By the remaining codes, so that a wall changes gradually."""
    for level in reversed(range(1, ids.num_levels)):
        items = items[ids.codes[items, level].argsort(stable=True)]
    return items


def spread(items: Int[Tensor, " member"], number: int) -> list[int]:
    """At most `number` of the items, evenly spaced."""
    if len(items) <= number:
        return [int(item) for item in items]
    return [int(items[i]) for i in np.linspace(0, len(items) - 1, number).astype(int)]
