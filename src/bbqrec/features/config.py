"""Which encoder turns which part of the catalog into vectors."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bbqrec.config import Config
from bbqrec.data import has_images, load_texts

Source = Literal["text", "image", "vectors"]

_SOURCE_OF_ENCODER: dict[str, Source] = {
    "lexical": "text",
    "visual": "image",
    "vectors": "vectors",
}


class ModalityConfig(Config):
    """One modality: what is read, and by which encoder.

    Args:
        encoder: "lexical" (texts, local), "visual" (images, local), "vectors" (brought along in
            `path`), or the name or local folder of a pretrained model for transformers.
        source: what is read; by default what the encoder needs, else what the modality is called.
        path: the file of vectors that were brought along.
        columns: the text columns to join; by default all of them.
        dim: width of a local encoder's vectors (by default text up to 512, image 128); a pretrained
            model has its own.
        revision: which commit, tag or branch of a pretrained model.
        batch_size: items that a pretrained model reads at once.
        max_length: tokens of a text that a pretrained model reads.
        max_bad_share: the largest tolerable share of images that cannot be read.
    """

    encoder: str = Field(min_length=1)
    source: Source | None = None
    columns: tuple[str, ...] | None = None
    path: str | None = None
    dim: int | None = Field(None, ge=1)
    revision: str | None = None
    batch_size: int = Field(32, ge=1)
    max_length: int = Field(256, ge=1)
    max_bad_share: float = Field(0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "ModalityConfig":
        needed = _SOURCE_OF_ENCODER.get(self.encoder)
        if needed and self.source not in (None, needed):
            raise ValueError(f"the encoder {self.encoder!r} reads {needed}, not {self.source}")
        if (self.encoder == "vectors") != (self.path is not None):
            raise ValueError('path goes with the encoder "vectors", and only with it')
        if self.dim is not None and self.encoder not in ("lexical", "visual"):
            raise ValueError('dim goes with the encoders "lexical" and "visual" only')
        return self

    def source_for(self, modality: str) -> Source | None:
        """What is read for the modality of this name; None when nothing tells."""
        if self.source or self.encoder in _SOURCE_OF_ENCODER:
            return self.source or _SOURCE_OF_ENCODER[self.encoder]
        return "text" if modality == "text" else "image" if modality == "image" else None


def default_encoders(data_dir: Path) -> dict[str, ModalityConfig]:
    """The local encoder of every modality that the prepared data hold; nothing is downloaded."""
    encoders = {}
    if any(text is not None for text in load_texts(data_dir)):
        encoders["text"] = ModalityConfig(encoder="lexical")
    if has_images(data_dir):
        encoders["image"] = ModalityConfig(encoder="visual")
    return encoders
