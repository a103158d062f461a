"""CLUB on Gaussians, whose mutual information is known."""

import math

import torch
from torch.optim import Adam

from bbqrec.tokenizer import Club, ClubPair, club_bound, club_likelihood


def gaussians(correlation: float, num_rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two 2-d vectors; each pair of coordinates has the given correlation."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(num_rows, 2, generator=generator)
    noise = torch.randn(num_rows, 2, generator=generator)
    return first, correlation * first + math.sqrt(1 - correlation**2) * noise


def fitted_club(correlation: float) -> Club:
    torch.manual_seed(0)
    club = Club(2, 2)
    optimizer = Adam(club.parameters(), lr=5e-3)
    given, vectors = gaussians(correlation, 4000, seed=1)
    for start in range(0, 4000 * 10, 200):
        rows = slice(start % 4000, start % 4000 + 200)
        optimizer.zero_grad()
        (-club_likelihood(club, given[rows], vectors[rows])).backward()
        optimizer.step()
    return club.requires_grad_(False)


def test_independent_vectors_share_about_nothing() -> None:
    bound = club_bound(fitted_club(0.0), *gaussians(0.0, 4000, seed=2))

    assert abs(bound.item()) < 0.05


def test_the_bound_is_at_least_the_true_information_and_not_absurd() -> None:
    truth = -math.log(1 - 0.8**2)  # two coordinates, -log(1 - rho^2) / 2 each

    bound = club_bound(fitted_club(0.8), *gaussians(0.8, 4000, seed=2)).item()

    # With q exact the bound is rho^2 / (1 - rho^2) per coordinate.
    assert truth <= bound
    assert abs(bound - 2 * 0.64 / 0.36) < 0.4


def test_the_bound_equals_the_mean_over_all_pairs() -> None:
    torch.manual_seed(3)
    club = Club(3, 2)
    given, vectors = torch.randn(30, 3), torch.randn(30, 2)
    mean, log_variance = club(given)

    squared = (vectors[None] - mean[:, None]).square() / log_variance.exp()[:, None]
    pairs = -0.5 * squared.sum(-1)  # log q(s_j | h_i) but for what cancels

    slow = pairs.diagonal().mean() - pairs.mean()
    torch.testing.assert_close(club_bound(club, given, vectors), slow)


def test_minimizing_it_decorrelates() -> None:
    """A mixing weight that starts at full dependence is driven toward independence."""
    club = fitted_club(0.8)
    given, dependent = gaussians(0.8, 4000, seed=4)
    private = torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))
    angle = torch.zeros((), requires_grad=True)
    optimizer = Adam([angle], lr=0.05)
    bounds = []

    for _ in range(30):
        mixed = torch.cos(angle) * dependent + torch.sin(angle) * private
        bound = club_bound(club, given, mixed)
        optimizer.zero_grad()
        bound.backward()
        optimizer.step()
        bounds.append(bound.item())
        if angle.item() == 0.0:  # leave the stationary point
            angle.data += 0.01

    assert bounds[-1] < 0.5 * bounds[0]


def test_each_side_of_a_pair_gets_gradient_only_as_the_predicted_one() -> None:
    torch.manual_seed(6)
    pair = ClubPair(3, 2).requires_grad_(False)
    aligned = torch.randn(20, 3, requires_grad=True)
    specific = torch.randn(20, 2, requires_grad=True)

    bounds = pair.bounds(aligned, specific)

    of_specific = torch.autograd.grad(
        bounds.of_specific, (aligned, specific), allow_unused=True, retain_graph=True
    )
    of_aligned = torch.autograd.grad(bounds.of_aligned, (aligned, specific), allow_unused=True)
    assert of_specific[0] is None
    assert of_specific[1] is not None
    assert of_aligned[0] is not None
    assert of_aligned[1] is None


def test_a_net_that_has_learned_nothing_still_presses_on_linear_dependence_only() -> None:
    torch.manual_seed(6)
    pair = ClubPair(2, 2)
    for club in (pair.specific_given_aligned, pair.aligned_given_specific):
        for layer in (*club.mean, *club.log_variance):
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.zeros_(layer.weight)

    dependent = pair.bounds(*gaussians(0.8, 4000, seed=7))
    independent = pair.bounds(*gaussians(0.0, 4000, seed=8))

    for bound in dependent:
        assert bound > 1
    for bound in independent:
        assert bound < 0.02
