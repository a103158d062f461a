"""Random catalogs and histories small enough for exhaustive checks."""

import numpy as np
import torch
from torch import Tensor

from bbqrec.data import Sequences
from bbqrec.ranking import Histories
from bbqrec.recommender import (
    ItemTables,
    NeighborConfig,
    OnePassRecommender,
    RecommenderConfig,
    SequenceModel,
    build_recommender,
    find_neighbors,
    similarity_edges,
)
from bbqrec.semantic_ids import SemanticIds

NUM_ITEMS = 40
HISTORIES = torch.tensor(
    [[3, 7, 1, 7, 20], [5, 6, -1, -1, -1], [9, 8, 30, 2, -1], [-1, -1, -1, -1, -1]]
)
LENGTHS = torch.tensor([5, 2, 4, 0])
RAGGED = Histories(HISTORIES[HISTORIES >= 0], torch.tensor([0, 5, 7, 11, 11]))
NARROW = {"d_model": 16, "num_heads": 2, "head_dim": 8, "d_ff": 24}
DEFAULT = RecommenderConfig(**NARROW, num_encoder_layers=2)
ONE_PASS = DEFAULT.model_copy(
    update={"decoder": "transformer", "normalize": "vocabulary", "num_decoder_layers": 2}
)
LEVEL = ONE_PASS.model_copy(update={"normalize": "level"})
LIGHT = ONE_PASS.model_copy(update={"decoder": "light"})
NEAR_TREE = DEFAULT.model_copy(update={"decoder": "tree"})
TREE = NEAR_TREE.model_copy(update={"neighbors": NeighborConfig(enabled=False)})
PAPER = RecommenderConfig.paper(**NARROW)
FORMS = {
    "default": DEFAULT,
    "plain": DEFAULT.model_copy(update={"encoder_layer": "plain", "user_start": "fixed"}),
    "own": DEFAULT.model_copy(update={"encoder_layer": "plain", "item_start": "own"}),
    "one_pass": ONE_PASS,
    "level": LEVEL,
    "light": LIGHT,
    "tree": TREE,
    "near_tree": NEAR_TREE,
    "paper": PAPER,
}


def random_tables(seed: int = 0) -> ItemTables:
    """Two modalities, each missing from a fifth of the items; the last five items are unseen."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (6, 5, 7)
    codes = torch.stack([torch.randint(s, (NUM_ITEMS,), generator=generator) for s in sizes], 1)
    dims = {"text": 10, "image": 12}
    vectors = {m: torch.randn(NUM_ITEMS, d, generator=generator) for m, d in dims.items()}
    present = {m: torch.rand(NUM_ITEMS, generator=generator) > 0.2 for m in dims}
    is_unseen = torch.arange(NUM_ITEMS) >= NUM_ITEMS - 5
    neighbors = find_neighbors(
        Sequences(*random_histories()), NUM_ITEMS, vectors, present, RecommenderConfig(**NARROW)
    )
    return ItemTables(
        SemanticIds(codes, sizes),
        dict(vectors),
        dict(present),
        dict(vectors),
        present,
        is_unseen,
        neighbors,
    )


def tables_for(config: RecommenderConfig) -> ItemTables:
    """Those of `random_tables` that such a model has."""
    tables = random_tables()
    return tables if config.neighbors.enabled else tables._replace(neighbors={})


def random_histories(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What training saw: none of the last five items."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, size=60)
    items = rng.integers(0, NUM_ITEMS - 5, size=lengths.sum()).astype(np.int32)
    return items, np.concatenate([[0], lengths.cumsum()])


def edges_of(config: RecommenderConfig, tables: ItemTables) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return similarity_edges(tables, *random_histories(), config, generator)


def random_model(
    config: RecommenderConfig, tables: ItemTables | None = None, *, seed: int = 0
) -> SequenceModel:
    """Weights drawn from `seed`, those that training starts at 0 included; dropout off."""
    tables = tables_for(config) if tables is None else tables
    torch.manual_seed(seed)
    model = build_recommender(config, tables, edges_of(config, tables)).eval()
    for table in model.similarity_tables().values():
        torch.nn.init.normal_(table)
    if isinstance(model, OnePassRecommender):
        parts = model.item_vectors
        late = [*parts.projections.parameters(), parts.code_vectors] if parts.starts_own else []
        for table in [*model.dense_biases().values(), *late]:
            torch.nn.init.normal_(table)
    return model
