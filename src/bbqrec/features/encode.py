"""The encode stage: every modality of a prepared dataset as one table of vectors."""

import contextlib
import hashlib
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bbqrec.data import Dataset
from bbqrec.errors import BBQRecError, ConfigError, FeatureError, StorageError
from bbqrec.features.config import ModalityConfig
from bbqrec.features.features import Features
from bbqrec.features.sources import (
    Encoded,
    Job,
    check_bad_share,
    content_sha256,
    encode_texts,
    take_vectors,
)
from bbqrec.storage import sha256_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # raise it whenever an encoder's vectors change


def encode(
    data_dir: Path,
    dataset: Dataset,
    config: Mapping[str, ModalityConfig],
    out_dir: Path,
    *,
    device: str = "cpu",
    cache_dir: Path | None = None,
) -> list[Features]:
    """Encode each modality of `config` and write it, with its fitted encoder, into `out_dir`.

    A modality already there, or in the cache, is reused if nothing that shaped it has changed.
    Work that was cut short goes on where it stopped, with equal bits in the result.

    Args:
        data_dir: the prepared dataset's folder; `dataset` is what it holds.
        cache_dir: keeps finished and unfinished work between calls; without one, unfinished work
            is kept in `out_dir`.

    Raises:
        ConfigError: a modality's name or settings make no sense.
        FeatureError: nothing to encode, a model cannot be loaded, too many unreadable images.
    """
    if not config:
        raise FeatureError(
            "there is nothing to encode: the data hold no texts and no images; bring vectors along "
            '(encoder = "vectors") or add a text column to the items'
        )
    jobs = [
        _plan(modality, options, data_dir, dataset, device)
        for modality, options in sorted(config.items())
    ]
    return [_run(job, out_dir, cache_dir) for job in jobs]


def _plan(
    modality: str, config: ModalityConfig, data_dir: Path, dataset: Dataset, device: str
) -> Job:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", modality):
        raise ConfigError(f"the modality {modality!r} must be named by letters, digits, _ and -")
    source = config.source_for(modality)
    if source is None:
        raise ConfigError(f'the modality {modality!r} needs source = "text" or source = "image"')
    return Job(modality, source, config, data_dir, dataset, device)


def _run(job: Job, out_dir: Path, cache_dir: Path | None) -> Features:
    identity = _identity(job)
    # The batch size is no part of what features are, but it is of where unfinished work stopped.
    key = sha256_json([identity, job.config.batch_size])[:20]
    store = (cache_dir or out_dir / ".partial") / f"{job.modality}-{key}"
    for place in (out_dir, store):
        found = _find(place, job.modality, identity)
        if found is not None:
            check_bad_share(job.modality, job.config, found.identity["statistics"])
            logger.info("%s: nothing has changed, features reused", job.modality)
            if place != out_dir:
                _copy(place, out_dir, job.modality)
            return found

    if job.source == "text":
        made = encode_texts(job, store)
    elif job.source == "image":
        from bbqrec.features.pictures import encode_images  # needs Pillow; training does not

        made = encode_images(job, store)
    else:
        made = take_vectors(job)
    features = _to_features(job, made, identity)
    place = out_dir if cache_dir is None else store
    shutil.rmtree(place / "encoders" / job.modality, ignore_errors=True)
    if made.encoder is not None:
        made.encoder.save(place / "encoders" / job.modality)
    features.save(place)  # last: without it, nothing here counts as finished
    if cache_dir is None:
        shutil.rmtree(store, ignore_errors=True)
        with contextlib.suppress(OSError):  # not there, or another modality's work is in it
            store.parent.rmdir()
    else:
        _copy(store, out_dir, job.modality)
        for part in store.glob("part-*"):
            part.unlink()
    return features


def _identity(job: Job) -> dict[str, Any]:
    """All that shapes the vectors; see `Features.identity`."""
    config = job.config
    options: dict[str, Any] = {}
    revision = None
    if config.encoder in ("lexical", "visual"):
        options["dim"] = config.dim
    elif job.source != "vectors":
        from bbqrec.features.pretrained import resolve_revision

        revision = resolve_revision(config.encoder, config.revision)
        options |= {"max_length": config.max_length} if job.source == "text" else {}
    if job.source == "text":
        options["columns"] = None if config.columns is None else list(config.columns)
    return {
        "encoder": config.encoder,
        "source": job.source,
        "revision": revision,
        "options": options,
        "content_sha256": content_sha256(job),
        "catalog_fingerprint": job.dataset.catalog_fingerprint,
        "format_version": FORMAT_VERSION,
    }


def _to_features(job: Job, made: Encoded, identity: dict[str, Any]) -> Features:
    """One row per item of the catalog; a vector of zeros says nothing and counts as missing."""
    items = torch.tensor(made.items)
    is_finite = made.vectors.isfinite().all(1)
    if not is_finite.all():
        item = int(items[~is_finite][0])
        raise FeatureError(
            f"the encoder {job.config.encoder!r} gives NaN or infinity for item "
            f"{job.dataset.item_ids[item]!r}"
        )
    num_items = job.dataset.num_items
    vectors = torch.zeros(num_items, made.vectors.shape[1]).index_copy(0, items, made.vectors)
    is_present = vectors.any(1)
    if not is_present.any():
        raise FeatureError(
            f"the encoder {job.config.encoder!r} finds no difference between the items, so the "
            f"modality {job.modality!r} would be empty; leave it out"
        )
    statistics = {
        **made.statistics,
        "present": int(is_present.sum()),
        "missing": int((~is_present).sum()),
        "zero": len(made.items) - int(is_present.sum()),
    }
    counts = ", ".join(f"{name} {count:,}" for name, count in statistics.items())
    logger.info("%s: %d wide; items: %s", job.modality, vectors.shape[1], counts)
    checksum = {"vectors_sha256": _checksum(vectors)}
    return Features(
        job.modality, vectors, is_present, {**identity, **checksum, "statistics": statistics}
    )


def _checksum(vectors: torch.Tensor) -> str:
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()


def _find(directory: Path, modality: str, identity: dict[str, Any]) -> Features | None:
    """The features of this identity in `directory`, if they are there and whole."""
    try:
        found = Features.load(
            directory, modality, catalog_fingerprint=identity["catalog_fingerprint"]
        )
    except BBQRecError:
        return None
    is_same = all(found.identity.get(key) == value for key, value in identity.items())
    has_encoder = (directory / "encoders" / modality / "encoder.json").is_file()
    is_whole = found.identity.get("vectors_sha256") == _checksum(found.vectors)
    is_usable = is_same and is_whole and (has_encoder or identity["source"] == "vectors")
    return found if is_usable else None


def _copy(source: Path, target: Path, modality: str) -> None:
    encoder, old_encoder = source / "encoders" / modality, target / "encoders" / modality
    try:
        shutil.rmtree(old_encoder, ignore_errors=True)
        if encoder.is_dir():
            shutil.copytree(encoder, old_encoder)
        target.mkdir(parents=True, exist_ok=True)
        for suffix in (".safetensors", ".json"):
            shutil.copy(source / f"{modality}{suffix}", target / f"{modality}{suffix}")
    except OSError as error:  # shutil.Error is one
        raise StorageError(
            f"cannot copy the {modality} features to {target}: {error}; they are kept in {source}"
        ) from None
