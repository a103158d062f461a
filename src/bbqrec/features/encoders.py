"""A fitted encoder, kept beside the vectors it made, so that a new item gets the same kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from bbqrec.errors import CorruptArtifactError, FeatureError
from bbqrec.features.lexical import LexicalEncoder
from bbqrec.storage import read_json


@runtime_checkable
class Encoder(Protocol):
    """Turns texts, or the bytes of image files, into one vector each."""

    def encode(self, inputs: Sequence[Any], /) -> Float[Tensor, "item dim"]: ...

    def save(self, directory: Path) -> None: ...


def load_encoder(directory: Path, *, device: str = "cpu") -> Encoder:
    """The encoder that `encode` left in `<out>/encoders/<modality>`.

    Raises:
        FeatureError: the modality's vectors were brought along, or a pretrained model is gone
            or no longer the same.
        CorruptArtifactError: the folder is damaged.
    """
    if not (directory / "encoder.json").is_file():
        raise FeatureError(
            f"{directory} holds no encoder: vectors brought along cannot be made for new items here"
        )
    settings = read_json(directory / "encoder.json")
    try:
        match settings["encoder"]:
            case "lexical":
                return LexicalEncoder.load(directory)
            case "visual":
                from bbqrec.features.visual import VisualEncoder

                return VisualEncoder.load(directory)
            case "pretrained-text":
                from bbqrec.features.pretrained import PretrainedTextEncoder

                return PretrainedTextEncoder(
                    settings["name"],
                    revision=settings["revision"],
                    max_length=settings["max_length"],
                    batch_size=settings["batch_size"],
                    device=device,
                    expected=settings["resolved"],
                )
            case "pretrained-image":
                from bbqrec.features.pretrained import PretrainedImageEncoder

                return PretrainedImageEncoder(
                    settings["name"],
                    revision=settings["revision"],
                    batch_size=settings["batch_size"],
                    device=device,
                    expected=settings["resolved"],
                )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(f"{directory} is not a whole encoder: {error}") from None
    raise CorruptArtifactError(f"{directory} holds an encoder this version does not know")
