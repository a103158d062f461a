"""Settings of the sequence model."""

from typing import Any, Literal

from pydantic import Field, model_validator

from bbqrec.config import Config


class SimilarityConfig(Config):
    """How the likeness of two items biases the attention between them.

    Args:
        enabled: without it attention knows positions only.
        source: what is compared: frozen "features", "aligned" vectors h_m, "quantized" vectors
            q_m (the caller puts the vectors meant into `ItemTables.similarity`), or how many
            leading "codes" two semantic IDs share, which needs no vectors.
        modalities: whose likeness counts; None: that of all.
        across: also compare one item's text with the other's image, and so on; this needs
            vectors of one space, "aligned" or "quantized".
        form: "additive" adds the table's entry to the attention logit; "multiplicative"
            multiplies the content part of the logit by one plus the entry.
        num_buckets: quantile buckets per modality; the special ones come on top.
        num_pairs: pairs of items drawn to estimate the quantiles.
    """

    enabled: bool = True
    source: Literal["features", "aligned", "quantized", "codes"] = "features"
    modalities: tuple[str, ...] | None = Field(None, min_length=1)
    across: bool = False
    form: Literal["additive", "multiplicative"] = "additive"
    num_buckets: int = Field(16, ge=2, le=200)
    num_pairs: int = Field(200_000, ge=100)

    @model_validator(mode="after")
    def _check(self) -> "SimilarityConfig":
        if self.across and self.source not in ("aligned", "quantized"):
            raise ValueError(
                'across compares modalities, so source must be "aligned" or "quantized"'
            )
        return self


class NeighborConfig(Config):
    """What the neighbors of a history's latest items gain in the dense score and on the tree.

    Args:
        enabled: without it the dense score is the product of vectors, and repeats; and a walk down
            the tree need not score all items.
        num_neighbors: kept for each item and kind of likeness: behavior, text, image ...
        num_recent: how many of the latest items of a history are read.
        num_buckets: of likeness, for each of which and for each age a number is learned.
        num_folds: neighbors by behavior are counted so many times for training, each time
            without the users who are scored by them.
        transitions: a finished model is given what a linear model says of what follows what, as
            much of it as helps on validation; of catalogs of up to 20,000 items.
    """

    enabled: bool = True
    num_neighbors: int = Field(50, ge=1)
    num_recent: int = Field(20, ge=1)
    num_buckets: int = Field(16, ge=2, le=200)
    num_folds: int = Field(8, ge=2)
    transitions: bool = False

    @model_validator(mode="after")
    def _check(self) -> "NeighborConfig":
        if self.transitions and not self.enabled:
            raise ValueError("transitions are neighbors: set enabled = true with them")
        return self


class RecommenderConfig(Config):
    """Shape of the sequence model; the defaults suit `one_pass`, `paper()` gives the other form.

    Args:
        form: "one_pass" reads one token per item and predicts at every position at once;
            "paper" is the encoder-decoder over code tokens, one prefix per example.
        d_model: width of item and user vectors.
        num_heads, head_dim: of attention, and the width of each.
        d_ff: width within the feed-forward blocks.
        num_encoder_layers: which read the history.
        encoder_layer: "t5" as in the paper, or "plain" as in a SASRec, with PyTorch's own maps and
            queries divided by the root of their width: better where items are an ID alone.
        num_decoder_layers: which write codes, where the decoder is a "transformer".
        dropout: share of activations dropped in training; small and sparse data want more.
        num_position_buckets, max_distance: how finely attention tells distances in the history,
            and from where on all are one.
        max_history: how many of the latest items are read.
        normalize: scores compete over the whole "vocabulary", as in T5, or over the "level"; in
            the "tree" always over the codes that some item has.
        decoder: what writes the codes in `one_pass`: a "light" network per level, a "transformer"
            that looks at the history again, or a walk down the "tree" of semantic IDs, best where
            items are ranked by their codes.
        use_id, use_content, use_codes: which parts an item's vector is the sum of (`one_pass`).
        item_start: what item vectors are at first (`one_pass`): mostly what items "share", content
            and codes, beside short vectors of their own; or an item's "own" vector alone, which
            content and codes join, from nothing, when additions begin: set
            `training.additions_after` with it, which is 0 by default.
        content_dim: main directions of each modality that item vectors read; None: one for every
            32 items, since content of as many dimensions as items is learned by heart.
        item_dropout: share of items that each training step treats as it treats unseen ones, told
            by their content alone; so new items can be ranked. Without effect where nothing
            reads content.
        user_start: where training begins: users beside their "last_item", which suits items that
            are followed by their like, or in a "random" direction; or "fixed", where it begins
            beside it, too, and no map from users to items is learned, best for items that are an
            ID alone.
        dense_score: the "cosine" of user and item vectors over the temperature, or their "dot"
            product as it is.
        repeat_bias: the dense score learns whether, and how soon, people come back for an item.
        neighbors: the dense score and the tree learn what it is worth to be like the latest items.
        temperature: divides the cosine.
        learn_temperature: whether training may change it.
    """

    form: Literal["one_pass", "paper"] = "one_pass"
    d_model: int = Field(128, ge=2)
    num_heads: int = Field(2, ge=1)
    head_dim: int = Field(64, ge=1)
    d_ff: int = Field(512, ge=1)
    num_encoder_layers: int = Field(1, ge=1)
    encoder_layer: Literal["t5", "plain"] = "t5"
    num_decoder_layers: int = Field(1, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    num_position_buckets: int = Field(32, ge=4, multiple_of=4)
    max_distance: int = Field(128, ge=8)
    max_history: int = Field(50, ge=1)
    normalize: Literal["vocabulary", "level"] = "level"
    decoder: Literal["transformer", "light", "tree"] = "light"
    use_id: bool = True
    use_content: bool = True
    use_codes: bool = True
    item_start: Literal["shared", "own"] = "shared"
    content_dim: int | None = Field(None, ge=1)
    item_dropout: float = Field(0.2, ge=0, lt=1)
    user_start: Literal["last_item", "random", "fixed"] = "last_item"
    dense_score: Literal["cosine", "dot"] = "cosine"
    repeat_bias: bool = True
    neighbors: NeighborConfig = NeighborConfig()
    temperature: float = Field(0.05, gt=0)
    learn_temperature: bool = False
    similarity: SimilarityConfig = SimilarityConfig()

    @classmethod
    def paper(cls, **changes: Any) -> "RecommenderConfig":
        """The TIGER-sized encoder-decoder: 4.59 M weights over four levels of 256 codes."""
        sizes: dict[str, Any] = {
            "form": "paper",
            "decoder": "transformer",
            "normalize": "vocabulary",
            "num_heads": 6,
            "d_ff": 1024,
            "num_encoder_layers": 4,
            "num_decoder_layers": 4,
            "dropout": 0.1,
            "max_history": 20,
        }
        return cls(**(sizes | changes))

    @model_validator(mode="after")
    def _check(self) -> "RecommenderConfig":
        if not (self.use_id or self.use_content or self.use_codes):
            raise ValueError("an item needs at least one of use_id, use_content and use_codes")
        if self.item_start == "own" and not self.use_id:
            raise ValueError('item_start="own" begins with vectors that use_id=false leaves out')
        if self.item_start == "own" and self.form == "paper":
            raise ValueError('the form "paper" reads codes alone, so item_start must be "shared"')
        if self.neighbors.transitions and self.form == "paper":
            raise ValueError('the form "paper" has no neighbors, so no transitions either')
        if self.max_distance <= self.num_position_buckets // 2:
            raise ValueError("max_distance must exceed half of num_position_buckets")
        if self.form == "paper" and self.decoder != "transformer":
            raise ValueError(
                f'the form "paper" has no {self.decoder} decoder; set decoder="transformer"'
            )
        return self
