"""What the speed benchmarks run on: random weights and data of the shape of Amazon Beauty."""

import torch

from bbqrec.decoding import DenseRanker, GenerativeRanker, RankBy, RankingConfig, make_ranker
from bbqrec.ranking import Histories
from bbqrec.recommender import (
    ItemTables,
    NeighborConfig,
    Neighbors,
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
SHIPPED = RecommenderConfig()  # the preset `fast`, which ranks all items by the dense score
SHIPPED_GENERATE = RecommenderConfig(decoder="tree")  # the preset `generate`, with neighbors
CONTENT_DIM = 768
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
    named = {} if vectors is None else {"text": vectors}
    present = {name: torch.ones(len(ids), dtype=torch.bool) for name in named}
    unseen = torch.zeros(len(ids), dtype=torch.bool)
    return _model(config, ItemTables(ids, {}, {}, named, present, unseen))


def shipped_ranker(
    ids: SemanticIds, shipped: RecommenderConfig = SHIPPED
) -> DenseRanker | GenerativeRanker:
    """A preset as it is: text and pictures, similarity, repeats, 50 neighbors of each kind, drawn
    at random; `fast` by its dense score, `generate` by a walk."""
    generator = torch.Generator().manual_seed(0)
    shape, config = (len(ids), CONTENT_DIM), shipped.neighbors
    content = {name: torch.randn(shape, generator=generator) for name in ("text", "image")}
    present = {name: torch.ones(len(ids), dtype=torch.bool) for name in content}
    size = (1, len(ids) + 1, config.num_neighbors)
    neighbors = {
        kind: Neighbors(
            torch.randint(len(ids), size, generator=generator).int(),
            torch.randint(config.num_buckets, size, generator=generator).to(torch.uint8),
            torch.linspace(-1, 0, config.num_buckets - 1),
        )
        for kind in ("behavior", *content)
    }
    unseen = torch.zeros(len(ids), dtype=torch.bool)
    tables = ItemTables(ids, content, present, content, present, unseen, neighbors)
    rank_by: RankBy = "generative" if shipped.decoder == "tree" else "dense"
    ranker = make_ranker(_model(shipped, tables), ids, RankingConfig(rank_by=rank_by))
    assert isinstance(ranker, DenseRanker | GenerativeRanker)
    return ranker


def shipped_histories(num_users: int, seed: int = 0) -> Histories:
    """Of as many items as the preset `fast` reads."""
    size = SHIPPED.max_history
    items, _ = histories(num_users, padded=False, longest=size, seed=seed)
    return Histories(items.flatten(), torch.arange(num_users + 1) * size)


def _model(config: RecommenderConfig, tables: ItemTables) -> SequenceModel:
    torch.manual_seed(0)
    edges = {}
    if config.similarity.enabled:
        items, lengths = histories(256, padded=False)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        generator = torch.Generator().manual_seed(0)
        edges = similarity_edges(
            tables, items.flatten().numpy(), offsets.numpy(), config, generator
        )
    return build_recommender(config, tables, edges).eval()


def search_flops(config: RecommenderConfig, beam_width: int) -> float:
    """Arithmetic that a search for one user needs.

    A light decoder reads the last place of the encoder alone, so of the last layer no other.
    """
    places = _num_places(config)
    read = 1 if config.decoder == "light" else places
    rows = 1 + (NUM_LEVELS - 1) * beam_width
    return _encoder_flops(config, places, read) + _decoder_flops(config, places, rows, seen=places)


def training_flops(config: RecommenderConfig) -> float:
    """Arithmetic that a training step needs for one user: forward, and twice that backward."""
    places, rows = _num_places(config), NUM_LEVELS
    read, seen = places, float(places)
    if config.form == "one_pass":
        rows *= NUM_POSITIONS
        read = NUM_POSITIONS if config.decoder == "light" else places
        seen = _pairs(config, places, NUM_POSITIONS) / NUM_POSITIONS
    forward = _encoder_flops(config, places, read)
    return 3 * (forward + _decoder_flops(config, places, rows, seen=seen))


def _num_places(config: RecommenderConfig) -> int:
    """What the encoder reads: codes and an end, or a start and items."""
    return 1 + NUM_POSITIONS * (NUM_LEVELS if config.form == "paper" else 1)


def _pairs(config: RecommenderConfig, places: int, read: int) -> float:
    """Pairs of a query and a key, of the last `read` places; in one pass none looks ahead."""
    return read * places if config.form == "paper" else read * (2 * places - read + 1) / 2


def _encoder_flops(config: RecommenderConfig, places: int, read: int) -> float:
    """`places` through all layers, of the last one the output at `read` places."""
    width, inner = config.d_model, config.num_heads * config.head_dim
    total = 0.0
    for layer in range(config.num_encoder_layers):
        asked = read if layer == config.num_encoder_layers - 1 else places
        keys_and_values, query_and_output = 4 * width * inner, 4 * width * inner
        total += places * keys_and_values + 4 * inner * _pairs(config, places, asked)
        total += asked * (query_and_output + 4 * width * config.d_ff)
    return total


def _decoder_flops(config: RecommenderConfig, places: int, rows: int, *, seen: float) -> float:
    """`rows` codes written.

    Args:
        seen: places of the history that each looks at, on average.
    """
    width, inner = config.d_model, config.num_heads * config.head_dim
    is_per_level = config.normalize == "level"
    scored = CODEBOOK_SIZE if is_per_level else 2 + NUM_LEVELS * CODEBOOK_SIZE
    logits, feed_forward = rows * 2 * width * scored, rows * 4 * width * config.d_ff
    if config.decoder == "light":
        return float(logits + feed_forward)
    memory = places * 4 * width * inner
    attention = rows * inner * (12 * width + 4 * seen)  # to itself, then to the history
    return float(logits + config.num_decoder_layers * (memory + attention + feed_forward))
