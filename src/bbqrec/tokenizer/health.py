"""Numbers that tell whether a table of semantic IDs is any good, before a recommender sees it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.data import Dataset
from bbqrec.features import Features
from bbqrec.semantic_ids import SemanticIds
from bbqrec.tokenizer.assignment import Assignment, explained_by
from bbqrec.tokenizer.cooccurrence import cooccurrence_vectors
from bbqrec.tokenizer.kmeans import kmeans, nearest

NUM_NEIGHBORS = 10
MAX_PROBES = 2000
NUM_CLUSTERS = 64


def health_table(
    assignment: Assignment, features: list[Features], dataset: Dataset, *, seed: int
) -> dict[str, Any]:
    """Plain numbers and per-level lists.

    `collision_rate` is before reassignment, `moved` the share of items it changed. `codes_used`
    and `perplexity` are of the final table. `error_share`: squared error left after each level,
    as a share of the targets' variance. `neighbors_kept`: share of an item's 10 nearest neighbors
    among the targets that stay among its 10 nearest by code vectors. `information`: adjusted
    mutual information of the first level's codes with clusters of behavior (training
    co-occurrence) and of each modality; 0 is chance.
    """
    ids = assignment.semantic_ids
    targets = assignment.targets
    quantized = assignment.quantized()
    errors = (targets - explained_by(assignment.wanted, assignment.codebooks)).square().sum(-1)
    variance = (targets[:, -1] - targets[:, -1].mean(0)).square().sum(-1).mean()
    usage = [
        torch.bincount(ids.codes[:, level], minlength=size)
        for level, size in enumerate(ids.codebook_sizes)
    ]
    return {
        "collision_rate": SemanticIds(assignment.wanted, ids.codebook_sizes).collision_rate,
        "moved": float((assignment.wanted != ids.codes).any(1).double().mean()),
        "codes_used": [int((counts > 0).sum()) for counts in usage],
        "perplexity": [round(perplexity(counts), 2) for counts in usage],
        "error_share": (errors.mean(0) / variance.clamp(min=1e-12)).tolist(),
        "neighbors_kept": neighbors_kept(targets[:, -1], quantized, seed=seed),
        "information": _information(ids.codes[:, 0], features, dataset, seed=seed),
    }


def perplexity(counts: Int[Tensor, " code"]) -> float:
    """exp of the entropy: how many equally used codes would be as spread out."""
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(shares).sum().exp())


def neighbors_kept(
    before: Float[Tensor, "item dim"], after: Float[Tensor, "item dim"], *, seed: int
) -> float:
    """Share of the nearest neighbors by cosine that stay, over at most 2,000 random items."""
    num_neighbors = min(NUM_NEIGHBORS, len(before) - 1)
    if num_neighbors < 1:
        return 1.0
    generator = torch.Generator().manual_seed(seed)
    probes = torch.randperm(len(before), generator=generator)[:MAX_PROBES]

    def neighbors(vectors: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        cosines = unit[probes] @ unit.T
        cosines[torch.arange(len(probes)), probes] = -torch.inf
        return cosines.topk(num_neighbors).indices

    first, second = neighbors(before), neighbors(after)
    return float((first[:, :, None] == second[:, None]).any(-1).double().mean())


def _information(
    codes: Int[Tensor, " item"], features: list[Features], dataset: Dataset, *, seed: int
) -> dict[str, float]:
    # Here, since it takes most of a second to import.
    from sklearn.metrics import adjusted_mutual_info_score

    behavior = cooccurrence_vectors(dataset.train, dataset.num_items, dim=64, seed=seed)
    spaces = {"behavior": (behavior, behavior.abs().sum(1) > 0)}
    spaces |= {f.modality: (f.vectors, f.is_present) for f in features}
    information = {}
    for name, (vectors, is_present) in spaces.items():
        rows = torch.nn.functional.normalize(vectors[is_present].float(), dim=-1)
        if len(rows) < 2:
            continue
        centers = kmeans(
            rows,
            min(NUM_CLUSTERS, len(rows)),
            iterations=10,
            generator=torch.Generator().manual_seed(seed),
        )
        clusters = nearest(rows, centers).numpy()
        information[name] = float(adjusted_mutual_info_score(clusters, codes[is_present].numpy()))
    return information
