"""Pretrained encoders through transformers: any text model, and CLIP, SigLIP or DINO for images.

Weights are read from safetensors only and no code of a model repository is ever run.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bbqrec.errors import FeatureError, MissingDependencyError
from bbqrec.features.image_files import open_image
from bbqrec.storage import sha256_file, write_json


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingDependencyError(
            "pretrained encoders need transformers: pip install 'bbqrec[encoders]', or choose "
            'the local encoders "lexical" and "visual"'
        ) from None
    return transformers


def _load(kind: str, name: str, revision: str | None, **options: Any) -> Any:
    """`transformers.<kind>.from_pretrained`, with one sentence when that fails."""
    transformers = _transformers()
    bars = transformers.utils.logging
    hides_bars = Path(name).is_dir() and bars.is_progress_bar_enabled()  # nothing to download
    if hides_bars:
        bars.disable_progress_bar()
    try:
        return getattr(transformers, kind).from_pretrained(
            name, revision=revision, trust_remote_code=False, **options
        )
    # transformers raises OSError, ValueError, KeyError, ImportError ... as it likes.
    except Exception as error:
        _refuse(name, revision, error)
    finally:
        if hides_bars:
            bars.enable_progress_bar()


def _refuse(name: str, revision: str | None, error: Exception) -> NoReturn:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    where = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    raise FeatureError(
        f"the encoder {where} cannot be loaded ({reason[:160].rstrip('.')}); name a model of the "
        "Hugging Face hub that is downloaded or reachable, or a local folder with config.json and "
        "model.safetensors"
    ) from None


def resolve_revision(name: str, revision: str | None) -> str:
    """What exactly `name` means now: a commit of the hub, or the hash of a local folder's files.

    Raises:
        FeatureError: there is no such model here, or none can be fetched.
    """
    folder = Path(name)
    if folder.is_dir():
        files = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".txt"))
        digests = "".join(f"{path.name} {sha256_file(path)}\n" for path in files)
        return "sha256:" + hashlib.sha256(digests.encode()).hexdigest()
    config = _load("AutoConfig", name, revision)
    return str(getattr(config, "_commit_hash", None) or revision or "unknown")


def _pinned(name: str, revision: str | None, expected: str | None) -> tuple[str, str | None]:
    """What the model is now, and the revision that keeps it so."""
    resolved = resolve_revision(name, revision)
    if expected not in (None, resolved):
        raise FeatureError(
            f"the encoder {name!r} has changed since the features were made (it was {expected}, "
            f"now it is {resolved}); run `bbqrec encode` again or bring the old one back"
        )
    is_commit = not resolved.startswith("sha256:") and resolved != "unknown"
    return resolved, resolved if is_commit else revision


class PretrainedTextEncoder:
    """The masked mean of a text model's last hidden states (Reimers and Gurevych, 2019).

    Args:
        expected: what `resolve_revision` said when features were made; another model is refused.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None,
        max_length: int,
        batch_size: int,
        device: str,
        expected: str | None = None,
    ) -> None:
        resolved, revision = _pinned(name, revision, expected)
        self._settings = {
            "encoder": "pretrained-text",
            "name": name,
            "revision": revision,
            "resolved": resolved,
            "max_length": max_length,
            "batch_size": batch_size,
        }
        self._batch_size = batch_size
        self._tokenizer = _load("AutoTokenizer", name, revision)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._max_length = min(max_length, self._tokenizer.model_max_length)
        model = _load("AutoModel", name, revision, use_safetensors=True, dtype=torch.float32)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        self._model = model.eval().to(device)
        self._device = device

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "item dim"]:
        """One row per text; texts of similar length share a batch, to save padding."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        batches = [
            self._encode_batch([texts[index] for index in order[start : start + self._batch_size]])
            for start in range(0, len(order), self._batch_size)
        ]
        vectors = torch.cat(batches)
        return torch.empty_like(vectors).index_copy_(0, torch.tensor(order), vectors)

    def _encode_batch(self, texts: list[str]) -> Float[Tensor, "item dim"]:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._device)
        hidden = self._model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state  # (item, token, dim)
        weight = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        pooled: Tensor = mean.float().cpu()
        return pooled

    def save(self, directory: Path) -> None:
        """The settings only: the model stays where it is."""
        write_json(directory / "encoder.json", self._settings)


class PretrainedImageEncoder:
    """The image half of CLIP or SigLIP, or the class token of DINO and its relatives.

    Args:
        expected: as for `PretrainedTextEncoder`.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None,
        batch_size: int,
        device: str,
        expected: str | None = None,
    ) -> None:
        resolved, revision = _pinned(name, revision, expected)
        self._settings = {
            "encoder": "pretrained-image",
            "name": name,
            "revision": revision,
            "resolved": resolved,
            "batch_size": batch_size,
        }
        self._batch_size = batch_size
        # Never the torchvision processors: installing torchvision can break transformers.
        self._processor = _load("AutoImageProcessor", name, revision, backend="pil")
        model = _load("AutoModel", name, revision, use_safetensors=True, dtype=torch.float32)
        self._model = model.eval().to(device)
        self._device = device

    def encode(self, images: Sequence[bytes]) -> Float[Tensor, "item dim"]:
        """One row per image file.

        Raises:
            UnreadableImageError: a file cannot be used as an image.
        """
        return self.encode_pictures([open_image(content) for content in images])

    @torch.inference_mode()
    def encode_pictures(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "item dim"]:
        """One row per RGB picture."""
        batches = [
            self._encode_batch(pictures[start : start + self._batch_size])
            for start in range(0, len(pictures), self._batch_size)
        ]
        return torch.cat(batches)

    def _encode_batch(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "item dim"]:
        pixels = self._processor(list(pictures), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self._device)
        if hasattr(self._model, "get_image_features"):
            answer = self._model.get_image_features(pixel_values=pixels)
            vectors: Tensor = getattr(answer, "pooler_output", answer)
        else:
            # Not pooler_output: where a checkpoint has no pooler, that one is random.
            vectors = self._model(pixel_values=pixels).last_hidden_state[:, 0]
        return vectors.float().cpu()

    def save(self, directory: Path) -> None:
        """The settings only: the model stays where it is."""
        write_json(directory / "encoder.json", self._settings)
