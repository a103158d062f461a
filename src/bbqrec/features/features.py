"""Feature vectors of one modality, tied to the catalog and the encoder they came from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bbqrec.errors import CorruptArtifactError, FeatureError
from bbqrec.storage import read_json, read_tensors, write_json, write_tensors


@dataclass(frozen=True, eq=False)
class Features:
    """One modality of the whole catalog, row by item number.

    Args:
        modality: "text", "image", or any other name.
        vectors: rows of missing items are zero and must not be read as content.
        is_present: False where the item lacks this modality.
        identity: encoder, revision, options, `content_sha256` of what was encoded and
            `catalog_fingerprint` of the item numbering; equal identities mean equal features.
    """

    modality: str
    vectors: Float[Tensor, "item dim"]
    is_present: Bool[Tensor, " item"]
    identity: dict[str, Any]

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    def save(self, directory: Path) -> None:
        """Write `<modality>.safetensors` and `<modality>.json`."""
        write_tensors(
            directory / f"{self.modality}.safetensors",
            {"vectors": self.vectors, "is_present": self.is_present},
        )
        write_json(directory / f"{self.modality}.json", self.identity)

    @classmethod
    def load(cls, directory: Path, modality: str, *, catalog_fingerprint: str) -> "Features":
        """Read one modality; FeatureError when it was made for another catalog."""
        identity = read_json(directory / f"{modality}.json")
        if identity.get("catalog_fingerprint") != catalog_fingerprint:
            raise FeatureError(
                f"the {modality} features in {directory} were made for another catalog; "
                "run `bbqrec encode` again"
            )
        tensors = read_tensors(directory / f"{modality}.safetensors")
        if tensors.keys() != {"vectors", "is_present"}:
            raise CorruptArtifactError(f"{directory / modality}.safetensors holds no features")
        return cls(modality, tensors["vectors"], tensors["is_present"], identity)


def load_features(directory: Path, *, catalog_fingerprint: str) -> list[Features]:
    """All modalities of a folder, in alphabetical order."""
    names = sorted(path.stem for path in directory.glob("*.safetensors"))
    if not names:
        raise FeatureError(f"{directory} holds no features; run `bbqrec encode` first")
    return [
        Features.load(directory, name, catalog_fingerprint=catalog_fingerprint) for name in names
    ]


def main_directions(features: Features, dim: int) -> Float[Tensor, "item kept"]:
    """The `dim` directions of largest variance, each of unit variance; missing items stay zero.

    Where there are no more than `dim` dimensions, what `standardize` returns.
    """
    if dim >= features.dim:
        return standardize(features)
    present = features.vectors[features.is_present].double()
    centered = features.vectors.double() - present.mean(0)
    variances, directions = torch.linalg.eigh(present.T.cov(correction=0))  # ascending
    scale = variances[-dim:].clamp(min=1e-12).rsqrt()
    kept: Tensor = centered @ directions[:, -dim:] * scale
    return (kept * features.is_present[:, None]).float()


def standardize(features: Features) -> Float[Tensor, "item dim"]:
    """Zero mean and unit variance per dimension over present items; missing items stay zero."""
    return standardize_like(features, features.vectors, features.is_present)


def standardize_like(
    catalog: Features, vectors: Float[Tensor, "row dim"], is_present: Bool[Tensor, " row"]
) -> Float[Tensor, "row dim"]:
    """Other items' vectors of the same modality, shifted and scaled as the catalog's own are."""
    present = catalog.vectors[catalog.is_present].double()
    mean, std = present.mean(0), present.std(0, unbiased=False)
    scaled = (vectors.double() - mean) / std.clamp(min=1e-6)
    return (scaled * is_present[:, None]).float()
