"""What the controls of a model are trained on: somebody else's codes, somebody else's vectors."""

import numpy as np
import torch

from bbqrec.bundle import RunFolder
from bbqrec.data import write_semantic_ids
from bbqrec.errors import ConfigError
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import read_tensors, write_json, write_tensors


def keep_shuffled(run: RunFolder, seed: int) -> str:
    """Give every item another one's semantic ID; the path of the file that keeps them.

    The codes occur as often as before and say nothing of the items: what a model with them is
    better by than one without codes is not owed to what codes say.
    """
    ids = run.semantic_ids()
    order = np.random.default_rng(seed).permutation(len(ids.codes))
    shuffled = SemanticIds(ids.codes[torch.from_numpy(order)], ids.codebook_sizes)
    path = run.directory / "shuffled.parquet"
    write_semantic_ids(path, run.dataset().item_ids, shuffled)
    return str(path)


def keep_own_vectors(run: RunFolder, trained: RunFolder) -> str:
    """Copy the items' own vectors of a trained model into `run`; the path of the file.

    A part that helps no more than beginning with them does has taught nothing that a plain
    sequence model would not.

    Raises:
        ConfigError: the trained model's items have no vectors of their own.
    """
    weights = read_tensors(trained.folder("train") / "model.safetensors")
    vectors = weights.get("item_vectors.id_vectors")
    if vectors is None:
        raise ConfigError(
            f"a warm start begins with the items' own vectors of {trained.directory.name}, which "
            "has none; name a row with recommender.use_id = true"
        )
    path = run.directory / "own_vectors.safetensors"
    write_tensors(path, {"vectors": vectors})
    write_json(path.with_suffix(".ids.json"), trained.dataset().item_ids)
    return str(path)
