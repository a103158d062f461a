"""Exact scores of every item: the reference for the beam, and its rival on small catalogs."""

import torch
from jaxtyping import Float
from torch import Tensor

from bbqrec.decoding.prefix_index import PrefixIndex
from bbqrec.decoding.scorer import CodeScorer


def score_every_item(session: CodeScorer, index: PrefixIndex) -> Float[Tensor, "batch item"]:
    """The log-probability of every item's semantic ID, -inf for items outside the index.

    Extends all prefixes of the catalog at once, so it holds `batch x largest_extension(index)`
    floats and answers exactly what a beam as wide as the catalog would.
    """
    log_probs = session.first()[:, None]  # (batch, node, code)
    batch, device = log_probs.shape[0], log_probs.device
    scores = torch.zeros((batch, 1), device=device)
    for depth, level in enumerate(index.levels):
        parents = torch.repeat_interleave(level.first_edge.diff())  # (edge,)
        codes = level.codes.long()
        scores = scores[:, parents] + log_probs[:, parents, codes].float()
        if depth + 1 < len(index.levels):
            log_probs = session.extend(parents.expand(batch, -1), codes.expand(batch, -1))
    table = torch.full((batch, index.num_items), -torch.inf, device=device)
    table[:, index.items.long()] = scores.masked_fill(~index.levels[-1].is_open, -torch.inf)
    return table


def largest_extension(index: PrefixIndex) -> int:
    """Floats that exhaustive scoring needs for one user at its widest level, at most."""
    sizes = [int(level.codes.max()) + 1 if level.num_edges else 0 for level in index.levels]
    return max(
        level.num_nodes * codebook_size
        for level, codebook_size in zip(index.levels, sizes, strict=True)
    )
