"""What a finished stage was made for: a stage is repeated only when its key changes."""

from pathlib import Path

from bbqrec.bundle import RunFolder, fingerprint
from bbqrec.errors import ConfigError, CorruptArtifactError
from bbqrec.features import default_encoders
from bbqrec.lineage import PARTS, is_update, way_back
from bbqrec.run_config import RunConfig
from bbqrec.source import source_fingerprint
from bbqrec.storage import sha256_file


def content_digests(run: RunFolder) -> dict[str, str | None]:
    """Digests of what is known of the items, which `Dataset.fingerprint` leaves out."""
    files = run.manifest("prepare")["sha256"]
    return {name: files.get(name) for name in ("ids.json", "items.parquet", "images.parquet")}


def encode_key(run: RunFolder, config: RunConfig) -> str:
    encoders = config.encode or default_encoders(run.folder("prepare"))
    settings = {m: c.model_dump(mode="json") for m, c in encoders.items()}
    # Vectors brought along and models in a local folder can change under the same name.
    paths = [Path(c.path or c.encoder) for c in encoders.values()]
    outside = [source_fingerprint(path, run) for path in paths if path.exists()]
    return fingerprint(list(content_digests(run).values()), settings, outside)


def tokenize_key(run: RunFolder, config: RunConfig) -> str:
    data = run.dataset().fingerprint
    if config.semantic_ids is not None:
        return fingerprint(data, sha256_file(Path(config.semantic_ids)))
    return fingerprint(data, run.manifest("encode")["sha256"], config.tokenizer, config.seed)


def train_key(run: RunFolder, config: RunConfig) -> str:
    inputs = [run.manifest(stage)["sha256"] for stage in ("encode", "tokenize")]
    if config.item_vectors is not None:
        inputs.append(sha256_file(Path(config.item_vectors)))
    settings = (config.recommender, config.training, config.ranking, config.seed)
    return fingerprint(run.dataset().fingerprint, inputs, *settings)


def evaluate_key(run: RunFolder, config: RunConfig) -> str:
    inputs = [run.manifest(stage)["sha256"] for stage in ("prepare", "train")]
    return fingerprint(inputs, config.evaluation, config.ranking, list(config.compare))


KEYS = {
    "encode": encode_key,
    "tokenize": tokenize_key,
    "train": train_key,
    "evaluate": evaluate_key,
}
"""After preparation: stage -> the key it must have been made for, which reads the stages before."""


def kept_stages(run: RunFolder, config: RunConfig) -> list[str]:
    """The stages that `run_stages` would leave as they are where the prepared data stand."""
    kept = ["prepare"]
    for stage, key in KEYS.items():
        if not run.is_current(stage, key(run, config)):
            break
        kept.append(stage)
    return kept


def keep_version(run: RunFolder, config: RunConfig) -> None:
    """Refuse what would encode, tokenize or train an updated version again.

    Its stages go on from the version before; done again in place they would begin from nothing.

    Raises:
        ConfigError: `config` asks for other stages than the version holds.
        CorruptArtifactError: a stage is damaged.
    """
    if not is_update(run):
        return
    what = f"is at version {run.version}, made" if run.version else "is a version made"
    back = way_back(run)
    for stage in PARTS:
        fault = run.fault(stage)
        if fault is not None:
            remedy = "take the folder from a copy"
            if back is not None:
                remedy = f"go back with {back} and update again"
            raise CorruptArtifactError(
                f"{fault}, and {run.root} {what} by an update, which cannot be made anew in place; "
                f"{remedy}"
            )
    for stage in PARTS[1:]:
        if run.manifest(stage).get("key") != KEYS[stage](run, config):
            raise ConfigError(
                f"{run.root} {what} by an update, and other settings would {stage} it anew and "
                f"lose what it learned; {'' if back is None else f'go back with {back}, '}give "
                "another folder as --out, or leave the settings as they are"
            )
