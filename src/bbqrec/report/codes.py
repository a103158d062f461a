"""What the codes mean: walls of the items that share a prefix, and how much each code is used."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from torch import Tensor

from bbqrec.data import Dataset
from bbqrec.report.pictures import Pictures
from bbqrec.semantic_ids import SemanticIds

NUM_LARGEST = 6
NUM_SAMPLED = 4
NUM_OPENED = 2
NUM_PREFIXES = 6
NUM_PICTURES = 24
NUM_PICTURES_OPENED = 12
NUM_COMPANIONS = 3
NUM_WORDS = 4
MIN_SHARE = 0.25
WORD = r"(?u)\b[^\W\d_]{2,}\b"


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


def show_wall(ids: SemanticIds, dataset: Dataset, pictures: Pictures) -> list[Group]:
    """The largest first-level codes and a sample of the others, the first ones opened up."""
    first = ids.codes[:, 0]
    largest_first = _largest_first(first)
    rest = largest_first[NUM_LARGEST:]
    sample = [
        rest[i]
        for i in np.unique(np.linspace(0, len(rest), NUM_SAMPLED, endpoint=False).astype(int))
    ]
    shown = largest_first[:NUM_LARGEST] + (sample if rest else [])
    words = telling_words(dataset.titles, first, shown)
    groups = []
    for place, code in enumerate(shown):
        members = (first == code).nonzero().flatten()
        opened = place < NUM_OPENED and ids.num_levels > 1
        inner = _open(ids, members, dataset, pictures) if opened else []
        num_inner = len(_largest_first(ids.codes[members, 1])) if opened else 0
        items = pictures.want(_spread(_sorted(ids, members), NUM_PICTURES))
        groups.append(
            Group((code,), len(members), words[code], items, inner, num_inner - len(inner))
        )
    return groups


def _open(
    ids: SemanticIds, members: Int[Tensor, "member"], dataset: Dataset, pictures: Pictures
) -> list[Group]:
    """The largest second-level groups within `members`, named by contrast with their siblings."""
    second = ids.codes[members, 1]
    shown = _largest_first(second)[:NUM_PREFIXES]
    words = telling_words([dataset.titles[int(item)] for item in members], second, shown)
    first = int(ids.codes[members[0], 0])
    groups = []
    for code in shown:
        inside = members[second == code]
        items = pictures.want(_spread(_sorted(ids, inside), NUM_PICTURES_OPENED))
        groups.append(Group((first, code), len(inside), words[code], items, [], 0))
    return groups


def telling_words(
    titles: list[str], groups: Int[Tensor, "item"], shown: list[int]
) -> dict[int, list[str]]:
    """The words by which a group's titles differ most from all titles.

    Ranked by p log(p / q), a word's part of the Kullback-Leibler divergence, where p and q are
    the shares of the group's and of all titles that hold the word. What less than a quarter of
    the group or only one of several titles says is no name for it.
    """
    vectorizer = CountVectorizer(
        binary=True, token_pattern=WORD, stop_words=list(ENGLISH_STOP_WORDS)
    )
    try:
        holds = vectorizer.fit_transform(titles).tocsr()  # (item, word)
    except ValueError:  # no title holds any word
        return {group: [] for group in shown}
    names = vectorizer.get_feature_names_out()
    everywhere = np.asarray(holds.mean(axis=0)).ravel()
    words = {}
    for group in shown:
        rows = holds[(groups == group).numpy()]
        counts = np.asarray(rows.sum(axis=0)).ravel()
        share = counts / rows.shape[0]
        telling = np.where(share > everywhere, share, 0.0) * np.log(
            np.maximum(share, 1e-12) / everywhere
        )
        telling[(share < MIN_SHARE) | (counts < min(2, rows.shape[0]))] = 0.0
        best = np.argsort(-telling, kind="stable")[:NUM_WORDS]
        words[group] = [str(names[word]) for word in best if telling[word] > 0]
    return words


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
        others = _spread(members[members != item], NUM_COMPANIONS)
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


def _largest_first(codes: Int[Tensor, "item"]) -> list[int]:
    used, counts = np.unique(codes.numpy(), return_counts=True)
    return [int(code) for code in used[np.argsort(-counts, kind="stable")]]


def _sorted(ids: SemanticIds, items: Int[Tensor, "member"]) -> Int[Tensor, "member"]:
    """By the remaining codes, so that a wall changes gradually."""
    for level in reversed(range(1, ids.num_levels)):
        items = items[ids.codes[items, level].argsort(stable=True)]
    return items


def _spread(items: Int[Tensor, "member"], number: int) -> list[int]:
    """At most `number` of the items, evenly spaced."""
    if len(items) <= number:
        return [int(item) for item in items]
    return [int(items[i]) for i in np.linspace(0, len(items) - 1, number).astype(int)]
