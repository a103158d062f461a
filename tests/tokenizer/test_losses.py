"""Loss terms against slow references, and what absent streams may not do."""

import math

import torch
import torch.nn.functional as F

from bbqrec.tokenizer import (
    Quantized,
    alignment_loss,
    cross_stream_loss,
    diversity_loss,
    quantization_loss,
    sequence_to_item_loss,
)


def test_full_contrast_is_cross_entropy_over_the_catalog() -> None:
    torch.manual_seed(0)
    users, items, targets = torch.randn(7, 4), torch.randn(9, 4), torch.randint(9, (7,))

    loss = sequence_to_item_loss(
        users, items, targets, log_inclusion=torch.zeros(9), temperature=0.1
    )

    cosines = torch.stack([F.cosine_similarity(user[None], items) for user in users])
    torch.testing.assert_close(loss, F.cross_entropy(cosines / 0.1, targets))


def test_sampled_candidates_estimate_the_sum_over_the_catalog() -> None:
    """The mean over many draws of sum_j exp(logit_j) is that of the whole catalog."""
    torch.manual_seed(1)
    user, items = torch.randn(1, 4), torch.randn(30, 4)
    inclusion = torch.linspace(0.2, 0.9, 30)
    full = sequence_to_item_loss(
        user, items, torch.tensor([0]), log_inclusion=torch.zeros(30), temperature=1.0
    )

    estimates = []
    for _ in range(3000):
        drawn = torch.rand(30) < inclusion
        drawn[0] = True  # the target is always there
        sampled = sequence_to_item_loss(
            user,
            items[drawn],
            torch.tensor([0]),
            log_inclusion=inclusion[drawn].log(),
            temperature=1.0,
        )
        estimates.append(sampled.exp())  # proportional to the sum: exp(-logit) * sum

    torch.testing.assert_close(torch.stack(estimates).mean(), full.exp(), rtol=0.03, atol=0.0)


def test_cross_stream_loss_is_the_mean_over_pairs_of_present_streams() -> None:
    torch.manual_seed(2)
    streams, quantized = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    is_present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]).bool()

    loss = cross_stream_loss(streams, quantized, is_present)

    pairs = [
        (streams[i, m] - quantized[i, n]).square().mean()
        for i in range(5)
        for m in range(3)
        for n in range(3)
        if m != n and is_present[i, m] and is_present[i, n]
    ]
    torch.testing.assert_close(loss, torch.stack(pairs).mean())


def test_absent_rows_do_not_count_in_the_quantization_loss() -> None:
    torch.manual_seed(3)
    quantized = Quantized(torch.zeros(6, 2).long(), torch.randn(6, 2, 3), torch.randn(6, 2, 3))
    is_present = torch.tensor([1, 0, 1, 1, 0, 0]).bool()

    loss = quantization_loss(quantized, is_present, commitment=0.25)

    squared = (quantized.residuals - quantized.vectors)[is_present].square().mean()
    torch.testing.assert_close(loss, 1.25 * squared)


def test_alignment_is_a_contrast_among_the_items_of_which_behavior_is_known() -> None:
    torch.manual_seed(4)
    vectors, behavior = torch.randn(6, 4), torch.randn(6, 4)
    is_known = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    behavior[~is_known] = 0.0
    vectors.requires_grad_()

    loss = alignment_loss(vectors, behavior, is_known, temperature=0.2)

    known = is_known.nonzero()[:, 0].tolist()
    terms = []
    for i in known:
        cosines = torch.stack([F.cosine_similarity(vectors[i], behavior[j], dim=0) for j in known])
        terms.append(-(cosines / 0.2).log_softmax(0)[known.index(i)])
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    (gradient,) = torch.autograd.grad(loss, vectors)
    assert (gradient.abs().sum(1) > 0).tolist() == is_known.tolist()


def test_a_batch_without_behavior_is_drawn_nowhere() -> None:
    vectors = torch.randn(3, 4, requires_grad=True)

    loss = alignment_loss(
        vectors, torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool), temperature=0.1
    )
    (gradient,) = torch.autograd.grad(loss, vectors)

    assert loss == 0
    assert (gradient == 0).all()


def test_diversity_is_the_mean_over_the_others_of_a_codes_group() -> None:
    torch.manual_seed(5)
    codebook = torch.randn(7, 3, requires_grad=True)
    groups = [0, 0, 1, 1, 1, 2, 0]
    codes = [3, 0, 0, 5, 6]  # code 5 is alone

    loss = diversity_loss(torch.tensor(codes), codebook, torch.tensor(groups))

    vectors, terms = codebook.detach(), []
    for code in codes:
        dots = {j: math.exp(vectors[code] @ vectors[j]) for j in range(7) if j != code}
        near = [j for j in dots if groups[j] == groups[code]]
        if near:
            terms.append(sum(-math.log(dots[j] / sum(dots.values())) for j in near) / len(near))
    torch.testing.assert_close(loss, torch.tensor(sum(terms) / len(terms)))
    (gradient,) = torch.autograd.grad(loss, codebook)
    assert gradient.isfinite().all()
