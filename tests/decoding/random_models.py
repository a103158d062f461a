"""Models with random but fixed scores, and the slow, obvious ways to decode them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bbqrec.ranking import Histories
from bbqrec.semantic_ids import SemanticIds

NUM_ROWS = 499


def random_ids(
    num_items: int,
    codebook_sizes: tuple[int, ...],
    *,
    seed: int,
    unique: bool = False,
    skew: int = 1,
) -> SemanticIds:
    """Codes drawn at random (so that small codebooks give collisions), or without repetition.

    With `skew` low codes are more frequent than high ones, so that nodes differ in width.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(codebook_sizes)
    if not unique:
        codes = torch.rand((num_items, len(sizes)), generator=generator) ** skew * sizes
        return SemanticIds(codes.long(), codebook_sizes)
    number = torch.randperm(int(sizes.prod()), generator=generator)[:num_items]
    columns = []
    for size in reversed(codebook_sizes):
        columns.append(number % size)
        number = number // size
    return SemanticIds(torch.stack(columns[::-1], 1), codebook_sizes)


@dataclass
class RandomSession:
    """The scores of a level are a row of its table, chosen by a hash of user and prefix."""

    tables: list[Tensor]
    state: Tensor  # (batch, beam)
    level: int = 0

    def first(self) -> Tensor:
        return self.tables[0][self.state[:, 0] % NUM_ROWS]

    def extend(self, parents: Tensor, codes: Tensor) -> Tensor:
        self.level += 1
        self.state = (self.state.gather(1, parents) * 31 + codes + 1) % 1_000_003
        return self.tables[self.level][self.state % NUM_ROWS]


class RandomModel(nn.Module):
    """Scores from random tables; with `coarse` they are small integers, so ties abound."""

    def __init__(
        self, ids: SemanticIds, *, seed: int = 0, max_history: int = 3, coarse: bool = False
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.ids = ids
        self.max_history = max_history
        sizes = (*ids.codebook_sizes, len(ids))
        tables = [3 * torch.randn((NUM_ROWS, size), generator=generator) for size in sizes]
        tables = [t.round() - 9 if coarse else t.log_softmax(-1) for t in tables]
        self.code_tables, self.item_table = tables[:-1], tables[-1]
        self.batches: list[tuple[int, int]] = []

    def _hash(self, items: Tensor, lengths: Tensor) -> Tensor:
        assert not self.training, "ranking must switch dropout off"
        assert items.shape[1] <= self.max_history
        assert torch.equal((items >= 0).sum(1), lengths)
        self.batches.append(tuple(items.shape))
        position = torch.arange(items.shape[1]) + 1
        return ((items + 1) * position**3).sum(1) % 1_000_003

    def begin(self, items: Tensor, lengths: Tensor) -> RandomSession:
        return RandomSession(self.code_tables, self._hash(items, lengths)[:, None])

    def score_items(self, items: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        state = self._hash(items, lengths)[:, None].expand_as(candidates)
        scores = torch.zeros(candidates.shape)
        for level, table in enumerate(self.code_tables):
            codes = self.ids.codes[candidates, level]
            scores = scores + table[state % NUM_ROWS].gather(2, codes[..., None]).squeeze(2)
            state = (state * 31 + codes + 1) % 1_000_003
        return scores

    def dense_scores(self, histories: Histories, *, new_item_boost: float = 0.0) -> Tensor:
        items, lengths = histories.latest(self.max_history)
        return self.item_table[self._hash(items, lengths) % NUM_ROWS]


def new_session(ids: SemanticIds, *, batch: int, seed: int, coarse: bool = False) -> RandomSession:
    tables = RandomModel(ids, seed=seed, coarse=coarse).code_tables
    return RandomSession(tables, torch.arange(batch)[:, None] * 17 + seed)


def slow_beam_search(
    session: RandomSession, codes: list[list[int]], candidates: list[int], width: int, k: int
) -> list[tuple[int, float]]:
    """One user's search in plain Python: (item, score) best first, among the candidates."""
    beams: dict[tuple[int, ...], tuple[float, int]] = {(): (0.0, int(session.state[0, 0]))}
    for level, table in enumerate(session.tables):
        is_last = level == len(session.tables) - 1
        grown = {}
        for item in candidates:
            prefix, code = tuple(codes[item][:level]), codes[item][level]
            if prefix not in beams:
                continue
            score, state = beams[prefix]
            score = float(torch.tensor(score) + table[state % NUM_ROWS, code])
            name = (item,) if is_last else (*prefix, code)
            grown[name] = (score, (state * 31 + code + 1) % 1_000_003)
        ordered = sorted(grown, key=lambda name: (-grown[name][0], name))
        beams = {name: grown[name] for name in ordered[: k if is_last else width]}
    return [(name[0], score) for name, (score, _) in beams.items()]
