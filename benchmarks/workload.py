"""What the speed benchmarks run on: random weights and data of the shape of Amazon Beauty."""

import torch

from bbqrec.recommender import (
    ItemTables,
    NeighborConfig,
    RecommenderConfig,
    SequenceModel,
    SimilarityConfig,
    build_recommender,
    similarity_edges,
)
from bbqrec.semantic_ids import SemanticIds

NUM_ITEMS, NUM_LEVELS, CODEBOOK_SIZE = 12_101, 4, 256
NUM_POSITIONS = 20
NO_SIMILARITY = SimilarityConfig(enabled=False)
WIDE = {"num_heads": 6, "d_ff": 1024, "num_encoder_layers": 4, "num_decoder_layers": 4}
EXACT = RecommenderConfig.paper(similarity=NO_SIMILARITY)
ONE_PASS = RecommenderConfig(
    **WIDE,
    decoder="transformer",
    normalize="vocabulary",
    dropout=0.1,
    max_history=20,
    similarity=NO_SIMILARITY,
    use_content=False,
)
LIGHT = {"decoder": "light", "normalize": "level"}
FAST = RecommenderConfig(**LIGHT, max_history=20, similarity=NO_SIMILARITY, use_content=False)
GENERATE = RecommenderConfig(
    decoder="tree",
    neighbors=NeighborConfig(enabled=False),
    max_history=20,
    similarity=NO_SIMILARITY,
    use_content=False,
)
WIDE_FAST = ONE_PASS.model_copy(update=LIGHT)


def clustered_ids(num_items: int = NUM_ITEMS, seed: int = 0) -> SemanticIds:
    """Codes as a residual quantizer gives them: prefixes shared unequally, IDs distinct."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.randn((NUM_LEVELS, CODEBOOK_SIZE), generator=generator).exp()
    weight = CODEBOOK_SIZE ** torch.arange(NUM_LEVELS - 1, -1, -1)
    found = torch.zeros(0, dtype=torch.int64)
    while len(found) < num_items:
        columns = [
            torch.multinomial(row, num_items, replacement=True, generator=generator)
            for row in share
        ]
        found = torch.unique(torch.cat([found, torch.stack(columns, 1) @ weight]))
    found = found[torch.randperm(len(found), generator=generator)[:num_items]]
    codes = found[:, None] // weight % CODEBOOK_SIZE
    return SemanticIds(codes, (CODEBOOK_SIZE,) * NUM_LEVELS)


def histories(
    num_users: int, *, padded: bool, longest: int = NUM_POSITIONS, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random items, left-aligned with -1 behind, and lengths: all `longest`, or any from 0."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(NUM_ITEMS, (num_users, longest), generator=generator)
    lengths = torch.full((num_users,), longest)
    if padded:
        lengths = torch.randint(longest + 1, (num_users,), generator=generator)
        lengths[0] = longest
    return items.masked_fill(torch.arange(longest) >= lengths[:, None], -1), lengths


def random_model(
    config: RecommenderConfig, ids: SemanticIds, *, vectors: torch.Tensor | None = None
) -> SequenceModel:
    """A model with random weights; `vectors` feed the similarity bias where it is enabled."""
    torch.manual_seed(0)
    named = {} if vectors is None else {"text": vectors}
    present = {name: torch.ones(len(ids), dtype=torch.bool) for name in named}
    unseen = torch.zeros(len(ids), dtype=torch.bool)
    tables = ItemTables(ids, {}, {}, named, present, unseen)
    edges = {}
    if config.similarity.enabled:
        items, lengths = histories(256, padded=False)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        generator = torch.Generator().manual_seed(0)
        edges = similarity_edges(
            tables, items.flatten().numpy(), offsets.numpy(), config, generator
        )
    return build_recommender(config, tables, edges).eval()


def flops(config: RecommenderConfig, places: int, rows: int) -> float:
    """Arithmetic that one user needs: the encoder, and `rows` tokens through the decoder.

    Args:
        places: tokens or items that the encoder reads.
    """
    width, inner = config.d_model, config.num_heads * config.head_dim
    num_tokens = 2 + NUM_LEVELS * CODEBOOK_SIZE
    attention, feed_forward = 8 * width * inner, 4 * width * config.d_ff
    encoder = places * (attention + feed_forward + 4 * places * inner)
    scored = CODEBOOK_SIZE if config.normalize == "level" else num_tokens
    total = config.num_encoder_layers * encoder + rows * 2 * width * scored
    if config.decoder == "light":
        return float(total + rows * feed_forward)
    memory = places * 4 * width * inner
    row = attention + 4 * width * inner + feed_forward + 4 * places * inner
    return float(total + config.num_decoder_layers * (memory + rows * row))
