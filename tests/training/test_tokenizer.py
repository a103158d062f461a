"""Stage 1 as a whole: planted truth, exact resume, no leakage, every method and layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bbqrec.data import Cases, Dataset, Sequences
from bbqrec.errors import FeatureError, SemanticIdError
from bbqrec.features import Features
from bbqrec.tokenizer import TokenizerConfig
from bbqrec.tokenizer.planted import MODALITIES, PLANTED_CONFIG, planted_shop, probe
from bbqrec.training.behavior_bound import BehaviorBoundRecipe
from bbqrec.training.tokenizer import FittedTokenizer, fit_tokenizer

NUM_ITEMS = 60


def small_config(**changes: Any) -> TokenizerConfig:
    return TokenizerConfig.parse(
        {
            "num_levels": 3,
            "codebook_size": 8,
            "dim": 8,
            "encoder_dims": [16],
            "specific_encoder_dims": [16],
            "specific_dim": 4,
            "decoder_dims": [16],
            "sequence_dim": 16,
            "sequence_layers": 1,
            "epochs": 4,
            "batch_size": 16,
            "catalog_draws": 20,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def shop() -> tuple[list[Features], Dataset]:
    """A small planted shop; some items lack an image, and three are never bought."""
    planted = planted_shop(seed=0, num_items=NUM_ITEMS, num_users=50, history_length=6)
    train = planted.dataset.train
    kept = train.items >= 3
    offsets = np.concatenate([[0], kept.cumsum()])[train.offsets]
    dataset = Dataset(**{**vars(planted.dataset), "train": Sequences(train.items[kept], offsets)})
    image, text = planted.features
    is_present = torch.arange(NUM_ITEMS) % 4 != 0
    partial = Features("image", image.vectors * is_present[:, None], is_present, image.identity)
    return [partial, text], dataset


def with_other_held_out(dataset: Dataset) -> Dataset:
    """The same training part; validation and test now ask for items that nobody had."""
    generator = np.random.default_rng(1)
    histories = Sequences(
        generator.integers(0, NUM_ITEMS, 40).astype(np.int32), np.arange(0, 44, 4)
    )
    cases = Cases(np.arange(10), histories, np.zeros(10, np.int32))
    return Dataset(**{**vars(dataset), "validation": cases, "test": cases})


def assert_equal(left: FittedTokenizer, right: FittedTokenizer) -> None:
    assert torch.equal(left.semantic_ids.codes, right.semantic_ids.codes)
    assert left.weights.keys() == right.weights.keys()
    for name, tensor in left.weights.items():
        assert torch.equal(tensor, right.weights[name]), name
    assert left.health == right.health


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": "per_stream"},
        {"layout": "id_last", "gate": "learned"},
        {"layout": "cascade"},
        {"behavior_aligned": False},
        {"shared_codebook": False, "w_mi": 0.0, "w_mi_aligned": 0.0},
        {"use_id": False, "modalities": ["image"]},
        {"w_s": 0.0},
        {"method": "rq_vae"},
        {"method": "rq_kmeans", "modalities": ["text"]},
        {"method": "letter"},
        {"method": "letter", "modalities": ["image"], "dim": 80, "w_diversity": 0.0},
        {"method": "letter", "codebook_size": [8, 4, 9], "w_align": 0.0},
        {"precision": "bf16"},
        {"method": "rq_vae", "precision": "bf16"},
        {"method": "letter", "precision": "bf16"},
    ],
    ids=str,
)
def test_every_reading_of_the_method_names_all_items_apart(
    shop: tuple[list[Features], Dataset], changes: dict[str, Any]
) -> None:
    features, dataset = shop

    fitted = fit_tokenizer(features, dataset, small_config(**changes), seed=0)

    ids = fitted.semantic_ids
    assert len(ids) == NUM_ITEMS
    assert ids.collision_rate == 0.0
    assert ids.num_levels == (9 if changes.get("layout") == "per_stream" else 3)
    assert all(vectors.isfinite().all() for vectors in fitted.item_vectors.values())
    variance = fitted.item_vectors["fused"].var(0).mean()
    assert variance > 1e-3
    assert fitted.health["error_share"][-1] < 1.0
    assert max(fitted.health["codes_used"]) > 2


@pytest.mark.parametrize("method", ["bbqrec", "letter"])
def test_the_same_seed_gives_the_same_codes_and_held_out_items_change_nothing(
    shop: tuple[list[Features], Dataset], method: str
) -> None:
    features, dataset = shop
    config = small_config(method=method)

    first = fit_tokenizer(features, dataset, config, seed=3)
    second = fit_tokenizer(features, with_other_held_out(dataset), config, seed=3)

    assert_equal(first, second)


def test_without_its_own_losses_letter_is_rq_vae(shop: tuple[list[Features], Dataset]) -> None:
    features, dataset = shop

    letter = fit_tokenizer(
        features, dataset, small_config(method="letter", w_align=0.0, w_diversity=0.0), seed=2
    )

    rq_vae = fit_tokenizer(features, dataset, small_config(method="rq_vae"), seed=2)
    assert torch.equal(letter.semantic_ids.codes, rq_vae.semantic_ids.codes)
    for name, tensor in rq_vae.weights.items():
        assert torch.equal(tensor, letter.weights[f"rq_vae.{name}"]), name


def test_items_unseen_in_training_get_no_item_vector(
    shop: tuple[list[Features], Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, dataset = shop
    config = small_config(epochs=1)
    recipe = BehaviorBoundRecipe(features, dataset, config, seed=0, device=torch.device("cpu"))

    with torch.no_grad():
        before = recipe.assign()[1]["fused"].clone()
        tables = [p for n, p in recipe.model.named_parameters() if n.startswith("item_vectors")]
        tables[0].copy_(torch.randn_like(tables[0]))
        after = recipe.assign()[1]["fused"]

    is_unseen = torch.from_numpy(dataset.popularity() == 0)
    assert is_unseen[:3].all()
    assert torch.equal(before[is_unseen], after[is_unseen])
    assert (before[~is_unseen] != after[~is_unseen]).any(1).all()


@pytest.mark.parametrize("method", ["bbqrec", "rq_vae", "letter"])
@pytest.mark.parametrize("killed_at", [3, 9])
def test_a_killed_run_resumes_bitwise(
    shop: tuple[list[Features], Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    killed_at: int,
) -> None:
    """Killed before and after the codebooks start; codes idle for one step are revived."""
    features, dataset = shop
    config = small_config(method=method, codebook_size=48, revive_after=1)
    whole = fit_tokenizer(features, dataset, config, seed=5)

    kill_at_step(monkeypatch, killed_at)
    with pytest.raises(KeyboardInterrupt):
        fit_tokenizer(features, dataset, config, seed=5, work_dir=tmp_path)
    monkeypatch.undo()
    torch.randn(17)  # another process would not have this random state either
    resumed = fit_tokenizer(features, dataset, config, seed=5, work_dir=tmp_path)

    assert_equal(whole, resumed)


def kill_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGINT from within the given step: the loop finishes it, saves and stops."""
    import signal

    from bbqrec.training.rq_vae import RQVAERecipe

    for recipe in (BehaviorBoundRecipe, RQVAERecipe):
        original = recipe.after_step
        steps = iter(range(10_000))

        def after_step(self: Any, batch: Any, original: Any = original, steps: Any = steps) -> None:
            original(self, batch)
            if next(steps) == step:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(recipe, "after_step", after_step)


def test_what_cannot_work_is_refused_before_training(
    shop: tuple[list[Features], Dataset],
) -> None:
    features, dataset = shop

    with pytest.raises(FeatureError, match="'audio'"):
        fit_tokenizer(features, dataset, small_config(modalities=["audio"]), seed=0)
    with pytest.raises(SemanticIdError, match="codebook_size"):
        fit_tokenizer(features, dataset, small_config(num_levels=1, codebook_size=4), seed=0)
    short = Features("text", torch.randn(3, 4), torch.ones(3, dtype=torch.bool), {})
    with pytest.raises(FeatureError, match="3 rows for 60"):
        fit_tokenizer([short], dataset, small_config(), seed=0)
    torn = Features("text", torch.full((60, 4), torch.nan), torch.ones(60, dtype=torch.bool), {})
    with pytest.raises(FeatureError, match="finite"):
        fit_tokenizer([torn], dataset, small_config(), seed=0)


def test_alignment_puts_behavior_in_the_place_of_nuisance() -> None:
    """Against rq_vae, mean over three seeds: the first codes say more of behavior's clusters, all
    codes less of what behavior does not need."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for seed in range(3):
        shop = planted_shop(seed=seed)
        for method in ("rq_vae", "letter"):
            config = PLANTED_CONFIG.model_copy(update={"method": method})
            fitted = fit_tokenizer(shop.features, shop.dataset, config, seed=seed)
            codes = fitted.item_vectors["quantized"]
            nuisance = np.mean([probe(codes, shop.nuisance[m]) for m in MODALITIES])
            information = fitted.health["information"]["behavior"]
            scores.setdefault(method, []).append((information, float(nuisance)))

    (information, nuisance), (information_before, nuisance_before) = (
        np.mean(scores[method], axis=0) for method in ("letter", "rq_vae")
    )
    assert information > information_before + 0.03, scores
    assert nuisance < nuisance_before - 0.08, scores


@pytest.mark.timeout(900)  # five trainings: about 15 s of one core each
def test_behavior_goes_to_the_aligned_vectors_and_codes_and_nuisance_to_the_specific_ones() -> None:
    """A linear probe's R^2, mean over five seeds: the paper's claim where the truth is known."""
    scores: dict[str, list[float]] = {}
    for seed in range(5):
        shop = planted_shop(seed=seed)
        fitted = fit_tokenizer(shop.features, shop.dataset, PLANTED_CONFIG, seed=seed)
        vectors = fitted.item_vectors
        scores.setdefault("factor from codes", []).append(probe(vectors["quantized"], shop.factor))
        for modality in MODALITIES:
            nuisance = shop.nuisance[modality]
            for side in ("aligned", "specific"):
                found = vectors[f"{side}.{modality}"]
                scores.setdefault(f"factor from {side}", []).append(probe(found, shop.factor))
                scores.setdefault(f"nuisance from {side}", []).append(probe(found, nuisance))
                if side == "aligned":
                    in_codes = probe(vectors["quantized"], nuisance)
                    scores.setdefault("nuisance from codes", []).append(in_codes)

    mean = {name: float(np.mean(values)) for name, values in scores.items()}
    assert mean["factor from aligned"] >= 0.8, scores
    assert mean["nuisance from aligned"] <= 0.2, scores
    assert mean["nuisance from specific"] >= 0.8, scores
    assert mean["factor from specific"] <= 0.2, scores
    assert mean["factor from codes"] >= 0.6, scores
    assert mean["nuisance from codes"] <= 0.1, scores


@pytest.mark.parametrize(("codebook_size", "is_told"), [(64, True), (16, False)])
def test_more_first_codes_than_pairs_of_items_are_warned_of(
    shop: tuple[list[Features], Dataset],
    caplog: pytest.LogCaptureFixture,
    codebook_size: int,
    is_told: bool,
) -> None:
    features, dataset = shop
    config = small_config(method="rq_kmeans", codebook_size=codebook_size)

    fit_tokenizer(features, dataset, config, seed=0)

    assert ("leave most items alone" in caplog.text) == is_told
