"""Groups of codes: near ones together, each level for itself."""

import torch

from bbqrec.tokenizer import CodeGroups


def test_codes_of_one_cluster_share_a_group() -> None:
    torch.manual_seed(0)
    centers = 10 * torch.randn(3, 4)
    truths = [torch.arange(12) % 3, torch.arange(9) % 3]
    codebooks = [centers[truth] + 0.1 * torch.randn(len(truth), 4) for truth in truths]
    groups = CodeGroups((12, 9))

    groups.refresh(codebooks, 3, iterations=20, seed=0)

    for found, truth in zip(groups.levels(), truths, strict=True):
        assert torch.equal(found[:, None] == found, truth[:, None] == truth)


def test_there_are_at_most_half_as_many_groups_as_codes() -> None:
    groups = CodeGroups((2, 9))

    groups.refresh([torch.randn(2, 4), torch.randn(9, 4)], 10, iterations=5, seed=0)

    assert [len(numbers.unique()) for numbers in groups.levels()] == [1, 4]
