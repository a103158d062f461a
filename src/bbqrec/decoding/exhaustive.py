"""Exact scores of every item: the reference for the beam, and its rival on small catalogs."""

import torch
from jaxtyping import Float
from torch import Tensor

from bbqrec.decoding.prefix_index import PrefixIndex
from bbqrec.decoding.scorer import CatalogScorer, CodeScorer

# How many edges of the index a `CatalogScorer` scores in the time in which the search handles one
# beam (docs/log.md, 2026-11-28).
EDGES_PER_BEAM = 600
MAX_EDGES = 2**16  # more would take more memory than speed is worth


def score_every_item(session: CodeScorer, index: PrefixIndex) -> Float[Tensor, "batch item"]:
    """The log-probability of every item's semantic ID, -inf for items that may not be found.

    A `CatalogScorer` does it by itself, unless few of its items may be found and it does not know
    all their scores already. Else all prefixes that lead to such items are extended at once, which
    takes `batch x largest_extension(index)` floats and answers exactly what a beam as wide as the
    catalog would.
    """
    many = _num_edges(index) <= EDGES_PER_BEAM * len(index)
    if isinstance(session, CatalogScorer) and (many or session.knows_every_item):
        every_item = torch.arange(index.num_items, device=index.items.device)
        return session.every_item().masked_fill(~index.are_open(every_item), -torch.inf)
    log_probs = session.first()[:, None]  # (batch, node, code)
    batch, device = log_probs.shape[0], log_probs.device
    scores = torch.zeros((batch, 1), device=device)
    edges = torch.zeros(1, dtype=torch.int64, device=device)
    for depth, level in enumerate(index.levels):
        nodes, edges = edges, level.open_edges
        parents = torch.searchsorted(level.first_edge, edges.int(), right=True) - 1
        parents = torch.searchsorted(nodes, parents)  # as they stand in the batch
        codes = level.codes[edges].long()
        scores = scores[:, parents] + log_probs[:, parents, codes].float()
        if depth + 1 < len(index.levels):
            log_probs = session.extend(parents.expand(batch, -1), codes.expand(batch, -1))
    table = torch.full((batch, index.num_items), -torch.inf, device=device)
    table[:, index.items[edges].long()] = scores
    return table


def is_faster(session: CodeScorer, index: PrefixIndex, beam_width: int) -> bool:
    """Whether to expect `score_every_item` to take less time than a search of this width.

    It does where no more items than beams may be found: the search prunes nothing there, and its
    answer is the same. Any other catalog is worth it for a `CatalogScorer` alone, where it knows
    the scores already or while the index has at most `EDGES_PER_BEAM` edges for each beam and
    `MAX_EDGES` in all; there its answer is exact, the search's only near.
    """
    if len(index) <= beam_width:
        return True
    if not isinstance(session, CatalogScorer):
        return False
    most = min(EDGES_PER_BEAM * beam_width, MAX_EDGES)
    return session.knows_every_item or _num_edges(index) <= most


def largest_extension(index: PrefixIndex) -> int:
    """Floats that exhaustive scoring needs for one user at its widest level, at most."""
    num_nodes, largest = 1, 0
    for level in index.levels:
        codebook_size = int(level.codes.max()) + 1 if level.num_edges else 0
        largest = max(largest, num_nodes * codebook_size)
        num_nodes = len(level.open_edges)
    return max(largest, _num_edges(index))


def _num_edges(index: PrefixIndex) -> int:
    return sum(level.num_edges for level in index.levels)
