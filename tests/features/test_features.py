"""What models read of features: centered, of equal variance, and no more directions than asked."""

import torch

from bbqrec.features import Features, main_directions, standardize


def some_features() -> Features:
    generator = torch.Generator().manual_seed(0)
    is_present = torch.arange(50) % 7 != 3
    mixed = torch.randn(50, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    vectors = (mixed * torch.tensor([9.0, 5.0, 1.0, 0.5, 0.1, 3.0]) + 4) * is_present[:, None]
    return Features("text", vectors, is_present, {})


def test_main_directions_are_those_of_a_singular_value_decomposition() -> None:
    features = some_features()
    present = features.is_present
    rows = features.vectors[present].double()
    left, _, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)

    found = main_directions(features, 3)

    assert found.shape == (50, 3)
    assert not found[~present].any()
    expected = left[:, :3] @ left[:, :3].T * len(rows)
    torch.testing.assert_close(found[present].double() @ found[present].double().T, expected)


def test_all_directions_are_left_as_they_are() -> None:
    features = some_features()

    assert torch.equal(main_directions(features, 6), standardize(features))


def test_a_constant_column_is_no_direction() -> None:
    features = some_features()
    constant = features.vectors.clone()
    constant[:, 2] = 8.0

    found = main_directions(Features("text", constant, features.is_present, {}), 5)

    assert found.isfinite().all()
    assert found.abs().max() < 20
