"""Newcomers get what an item of the catalog with their content got, and an ID that is free."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_run import draw_tiny_shop, tiny_config

from bbqrec.bundle import RunFolder
from bbqrec.errors import SemanticIdError
from bbqrec.pipeline import run_stages
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import read_tensors
from bbqrec.tokenizer import NewContent, place_newcomers, tokenize_newcomers

METHODS = {
    "bbqrec": {"use_id": False},
    "bbqrec per_stream": {"layout": "per_stream", "use_id": False, "codebook_size": 4},
    "rq_vae": {"method": "rq_vae"},
    "letter": {"method": "letter"},
    "rq_kmeans": {"method": "rq_kmeans"},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_tiny_shop(tmp_path_factory.mktemp("newcomers") / "shop")


@pytest.mark.parametrize("name", METHODS)
def test_the_content_of_known_items_gives_their_vectors_and_codes(
    name: str, shop: Path, tmp_path: Path
) -> None:
    config = tiny_config(tokenizer=METHODS[name])
    run = RunFolder(tmp_path / "run")
    run_stages(run, config, source=shop, until="tokenize")
    catalog = run.features(run.dataset())
    weights = read_tensors(run.folder("tokenize") / "weights.safetensors")
    kept = read_tensors(run.folder("tokenize") / "item_vectors.safetensors")
    ids, has_all = run.semantic_ids(), torch.stack([f.is_present for f in catalog]).all(0)
    content = {f.modality: NewContent(f.vectors[has_all], f.is_present[has_all]) for f in catalog}
    is_seen = torch.ones_like(has_all)

    found = tokenize_newcomers(config.tokenizer, weights, catalog, content, ids.codes[:0], is_seen)

    kept = {name: table[has_all] for name, table in kept.items()}
    fused = found.item_vectors["fused"]
    torch.testing.assert_close(fused, kept["fused"], rtol=1e-4, atol=1e-5)
    # In order of arrival others win a contested ID, but who was alone with its wish has it.
    is_same = (found.codes == ids.codes[has_all]).all(1)
    assert is_same.double().mean() > 0.5
    assert SemanticIds(found.codes, ids.codebook_sizes).collision_rate == 0
    torch.testing.assert_close(
        found.item_vectors["quantized"][is_same],
        kept["quantized"][is_same],
        rtol=1e-4,
        atol=1e-5,
    )

    again = tokenize_newcomers(config.tokenizer, weights, catalog, content, ids.codes, is_seen)
    everything = torch.cat([ids.codes, again.codes])
    assert SemanticIds(everything, ids.codebook_sizes).collision_rate == 0


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_newcomer_of_one_modality_lies_beside_the_item_it_is(modality: str, shop: Path) -> None:
    run = RunFolder(shop.parent / "both")
    config = tiny_config(tokenizer={"epochs": 8, "dim": 16})
    run_stages(run, config, source=shop, until="tokenize")
    dataset = run.dataset()
    catalog = run.features(dataset)
    weights = read_tensors(run.folder("tokenize") / "weights.safetensors")
    fused = read_tensors(run.folder("tokenize") / "item_vectors.safetensors")["fused"]
    content = {
        f.modality: NewContent(f.vectors, f.is_present & (f.modality == modality)) for f in catalog
    }
    is_seen = torch.from_numpy(dataset.popularity() > 0)

    found = tokenize_newcomers(
        config.tokenizer, weights, catalog, content, run.semantic_ids().codes, is_seen
    )

    mean = fused.mean(0)
    new = torch.nn.functional.normalize(found.item_vectors["fused"] - mean, dim=-1)
    cosines = new @ torch.nn.functional.normalize(fused - mean, dim=-1).T
    rank = (cosines > cosines.diagonal()[:, None]).sum(1).double()
    assert rank.median() <= 0.15 * len(fused)  # by chance half of them are nearer
    # Its ID begins as that of an item that looks alike through this modality, most often its own.
    codes = run.semantic_ids().codes
    can_tell = is_seen & content[modality].is_present
    begins_alike = (found.codes[:, :-1] == codes[:, :-1]).all(1)[can_tell]
    assert begins_alike.double().mean() > 0.5
    prefixes = {tuple(row) for row in codes[is_seen][:, :-1].tolist()}
    elsewhere = [tuple(row) not in prefixes for row in found.codes[can_tell][:, :-1].tolist()]
    # Where a seen item's prefix has no last code left, the nearest free ID is the next best.
    used = Counter(map(tuple, torch.cat([codes, found.codes])[:, :-1].tolist()))
    num_full = sum(used[prefix] == config.tokenizer.codebook_sizes[-1] for prefix in prefixes)
    assert sum(elsewhere) <= (len(elsewhere) // 10 if num_full else 0)


def test_ids_that_were_brought_along_leave_nothing_to_give() -> None:
    with pytest.raises(SemanticIdError, match="made elsewhere"):
        tokenize_newcomers(
            tiny_config().tokenizer, {}, [], {}, torch.zeros(0, 3).long(), torch.ones(0).bool()
        )


def test_a_newcomer_takes_the_nearest_free_id_and_a_full_table_is_refused() -> None:
    codebooks = [torch.tensor([[0.0], [10.0]]), torch.tensor([[0.0], [1.0], [-2.0]])]
    taken = torch.tensor([[0, 0], [0, 1]])
    wanted = torch.tensor([[0, 0], [0, 0]])
    targets = torch.zeros(2, 2, 1)

    codes = place_newcomers(taken, wanted, targets, codebooks)

    assert codes.tolist() == [[0, 2], [1, 2]]
    with pytest.raises(SemanticIdError, match="all 6 semantic IDs"):
        place_newcomers(taken, wanted.repeat(3, 1), targets.repeat(3, 1, 1), codebooks)
