"""Settings of the tokenizer, whichever method turns features into semantic IDs."""

from typing import Literal

from pydantic import Field, model_validator

from bbqrec.config import Config
from bbqrec.precision import Precision

Method = Literal["bbqrec", "rq_vae", "rq_kmeans", "letter"]
Layout = Literal["fused", "per_stream", "id_last", "cascade"]


class TokenizerConfig(Config):
    """How items become semantic IDs; ablations are plain values of these fields.

    No behavior-aligned encoders: `behavior_aligned = false`. No CLUB: `w_mi = w_mi_aligned = 0`.
    Separate codebooks: `shared_codebook = false`. No item vector: `use_id = false`. No
    sequence-to-item contrast: `w_s = 0`.
    """

    method: Method = "bbqrec"
    """bbqrec: behavior-bound; rq_vae: on content alone; rq_kmeans: PCA, then k-means levels;
    letter: rq_vae, drawn to training co-occurrence, with codes spread out."""
    layout: Layout = "fused"
    """How the streams (modalities, then the item vector) share one semantic ID."""
    modalities: tuple[str, ...] | None = Field(None, min_length=1)
    """Which features to read; None reads all."""
    gate: Literal["equal", "learned"] = "equal"
    """Weights of the streams in the fused stream."""

    num_levels: int = Field(4, ge=1)
    """Codes of one semantic ID, coarse to fine."""
    codebook_size: int | tuple[int, ...] = 256
    """Codes per level: one number for all levels, or one each."""
    dim: int = Field(32, ge=2)
    """Width of the vectors that are quantized."""

    encoder_dims: tuple[int, ...] = (512, 256, 128)
    """Hidden widths of the behavior-aligned encoders, and of RQ-VAE's encoder and decoder (also
    letter's)."""
    specific_encoder_dims: tuple[int, ...] = (512, 256)
    """Hidden widths of the encoders of what behavior does not need."""
    specific_dim: int = Field(64, ge=1)
    """Width of their vectors."""
    decoder_dims: tuple[int, ...] = (256, 512)
    """Hidden widths of the decoders, which rebuild the features."""

    use_id: bool = True
    """Whether a learned item vector is a stream beside the modalities."""
    id_start: Literal["cooccurrence", "random"] = "cooccurrence"
    """Where item vectors begin: at what training co-occurrence says, or anywhere."""
    id_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of items in a batch without their item vector: codes must not rest on it alone."""
    behavior_aligned: bool = True
    """Whether behavior trains the encoders of what is quantized; without, content alone does."""
    shared_codebook: bool = True
    """One codebook for all streams; false: one each."""

    w_s: float = Field(1.0, ge=0)
    """Weight of the sequence-to-item contrast."""
    w_x: float = Field(0.25, ge=0)
    """Weight of the pull of each stream to the others' code vectors."""
    w_mi: float = Field(0.1, ge=0)
    """Weight, once ramped up, of the information that specific vectors share with aligned ones,
    as what the specific encoders should drop."""
    w_mi_aligned: float = Field(0.03, ge=0)
    """The same as what the aligned encoders should drop. Much smaller, so that what behavior
    needs stays in the aligned vectors; nothing else holds the rest there."""
    w_mi_ramp_epochs: int = Field(10, ge=0)
    """Quantized epochs until `w_mi` and `w_mi_aligned` have their full weight."""
    w_align: float = Field(0.1, ge=0)
    """Weight, in letter, of the pull of an item's code vectors to its co-occurrence vector."""
    w_diversity: float = Field(1e-4, ge=0)
    """Weight, in letter, of the pull of chosen code vectors to others of their group."""
    diversity_clusters: int = Field(10, ge=1)
    """Groups of near codes in each level, in letter; at most half of the level's codes."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the pull of vectors to their code vectors."""
    temperature: float = Field(0.07, gt=0)
    """Of both contrasts: sequence to item, and letter's with co-occurrence."""

    max_history: int = Field(20, ge=1)
    """Longest stretch of a history that one training window predicts over."""
    sequence_layers: int = Field(2, ge=1)
    """Layers of the small Transformer that reads histories for the contrast."""
    sequence_heads: int = Field(2, ge=1)
    """Its attention heads."""
    sequence_dim: int = Field(64, ge=2)
    """Its width."""
    sequence_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of its activations dropped in training."""

    epochs: int = Field(15, ge=1)
    """An epoch reads one window of every user; for rq_vae and letter, every item once."""
    unquantized_epochs: int = Field(5, ge=0)
    """First epochs, with vectors in place of their code vectors; then codebooks by k-means.
    At most half of `epochs`."""
    batch_size: int = Field(256, ge=2)
    """Windows (rq_vae and letter: items) in a batch."""
    catalog_draws: int = Field(512, ge=2)
    """Items drawn uniformly into every batch; the softmax is full where the catalog fits."""
    learning_rate: float = Field(1e-3, gt=0)
    """At its highest; it warms up and falls along a cosine."""
    weight_decay: float = Field(0.01, ge=0)
    """Of the weight matrices."""
    club_learning_rate: float = Field(3e-3, gt=0)
    """Of the nets that estimate what two vectors share (CLUB)."""
    club_steps: int = Field(2, ge=1)
    """Their steps for each step of the encoders."""
    club_steps_unquantized: int = Field(5, ge=1)
    """The same in the unquantized epochs."""
    precision: Precision = "fp32"
    """Of the products in encoders and decoders; codes are always chosen in float32. bf16: faster
    where the machine multiplies it; "auto" where it does. Not the default: in training the latent
    vectors are rounded before they are quantized, and what that costs on real data is unknown."""
    revive_after: int = Field(300, ge=1)
    """Steps without use after which a code is replaced by a residual of its level."""
    kmeans_iterations: int = Field(20, ge=1)
    """Of k-means, by which the codebooks begin; rq_kmeans adds as many on fewer dimensions."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "TokenizerConfig":
        if len(self.codebook_sizes) != self.num_levels:
            raise ValueError(
                f"codebook_size names {len(self.codebook_sizes)} levels, num_levels is "
                f"{self.num_levels}; give one size for all levels or one for each"
            )
        if min(self.codebook_sizes) < 2:
            raise ValueError("codebook_size must be at least 2 at every level")
        if self.sequence_dim % self.sequence_heads:
            raise ValueError("sequence_dim must be a multiple of sequence_heads")
        return self

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes of each level."""
        if isinstance(self.codebook_size, int):
            return (self.codebook_size,) * self.num_levels
        return self.codebook_size

    @property
    def quantized_from(self) -> int:
        """The first epoch, from 0, that quantizes."""
        return min(self.unquantized_epochs, self.epochs // 2)
