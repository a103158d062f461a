"""CLUB: an upper bound on the mutual information of two vectors (Cheng et al., ICML 2020)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

LOG_VARIANCE_BOUNDS = (-6.0, 2.0)
NOISE = 0.3
RIDGE = 0.01  # per row, beside vectors of variance 1


class Club(nn.Module):
    """A net q(s|h) = N(mu(h), exp(lv(h))), fitted by maximum likelihood beside the encoders.

    lv is bounded to [-6, 2], not to the published code's [-1, 1]: there, shrinking s would send
    the bound to zero while the information stays. It bounds from above only while q fits.
    """

    def __init__(self, given_dim: int, dim: int, *, hidden_dim: int = 64) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Linear(given_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)
        )
        self.log_variance = nn.Sequential(
            nn.Linear(given_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)
        )

    def forward(
        self, given: Float[Tensor, "batch given"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Mean and log-variance of s, given h."""
        low, high = LOG_VARIANCE_BOUNDS
        log_variance = low + (high - low) * torch.sigmoid(self.log_variance(given))
        return self.mean(given), log_variance


def club_likelihood(
    club: Club, given: Float[Tensor, "batch given"], vectors: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Mean log-likelihood per row, up to a constant: what fitting maximizes, and a fit's gauge."""
    mean, log_variance = club(given)
    squared = (vectors - mean).square() / log_variance.exp()
    likelihood: Tensor = -0.5 * (squared + log_variance).sum(-1).mean()
    return likelihood


def club_bound(
    club: Club, given: Float[Tensor, "batch given"], vectors: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Information in nats that `given` has about `vectors`: what the encoders minimize.

    mean_i [log q(s_i|h_i) - mean_j log q(s_j|h_i)] (eq. 9 of the paper), the mean over all
    pairs in closed form from the first two moments of s: less noisy than one permutation.
    """
    return _bound_per_dimension(club, given, vectors).sum()


@torch.no_grad()
def _linear_rest(
    given: Float[Tensor, "batch given"], rest: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dim"]:
    """What a linear map fitted to this very batch still finds of `rest` in `given`.

    The net follows moving encoders from behind. With this part exact at every step the bound is
    quadratic in the dependence left, so its gradient ends where the dependence does. Each half of
    the batch is told by the map of the other: chance likeness within a half is no information.
    """
    half = len(given) // 2
    parts = (slice(None, half), slice(half, None))
    found = torch.zeros_like(rest)
    if half == 0:
        return found
    for fitted, told in (parts, parts[::-1]):
        centered = given[fitted] - given[fitted].mean(0)
        ridge = RIDGE * len(centered) * torch.eye(given.shape[1], device=given.device)
        gram = centered.T @ centered + ridge
        weights = torch.linalg.solve(gram, centered.T @ (rest[fitted] - rest[fitted].mean(0)))
        found[told] = (given[told] - given[fitted].mean(0)) @ weights
    return found


def _bound_per_dimension(
    club: Club,
    given: Float[Tensor, "batch given"],
    vectors: Float[Tensor, "batch dim"],
    *,
    corrects: bool = False,
) -> Float[Tensor, " dim"]:
    mean, log_variance = club(given)
    if corrects:
        mean = mean + _linear_rest(given, vectors - mean)
    precision = (-log_variance).exp()
    paired = (vectors - mean).square()
    moments = vectors.square().mean(0) - 2 * mean * vectors.mean(0) + mean.square()
    bounds: Tensor = 0.5 * (precision * (moments - paired)).mean(0)
    return bounds


class Informations(NamedTuple):
    """Bounds on the same information; each has gradient for one side only."""

    of_specific: Float[Tensor, ""]
    of_aligned: Float[Tensor, ""]


class ClubPair(nn.Module):
    """Both directions: q(s|h) tells s what to drop, q(h|s) tells h.

    Each vector gets its gradient as the one predicted, never through a net that predicts from it:
    there, an encoder outruns the net instead of dropping information (benchmarks/planted.py).
    The predicted vector gets noise first: without it, s a function of h has infinite information
    and a gradient that drowns all other losses.
    """

    def __init__(self, aligned_dim: int, specific_dim: int) -> None:
        super().__init__()
        self.specific_given_aligned = Club(aligned_dim, specific_dim)
        self.aligned_given_specific = Club(specific_dim, aligned_dim)

    def bounds(
        self, aligned: Float[Tensor, "batch aligned"], specific: Float[Tensor, "batch specific"]
    ) -> Informations:
        """What the encoders minimize, in nats."""
        return Informations(
            _positive_part(self.specific_given_aligned, aligned.detach(), _noisy(specific)),
            _positive_part(self.aligned_given_specific, specific.detach(), _noisy(aligned)),
        )

    def likelihood(
        self, aligned: Float[Tensor, "batch aligned"], specific: Float[Tensor, "batch specific"]
    ) -> Float[Tensor, ""]:
        """What fitting maximizes: the sum of both nets' mean log-likelihoods."""
        forward = club_likelihood(self.specific_given_aligned, aligned, _noisy(specific))
        return forward + club_likelihood(self.aligned_given_specific, specific, _noisy(aligned))


def _positive_part(
    club: Club, given: Float[Tensor, "batch given"], vectors: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """The bound over dimensions where it is positive.

    It is linear in `vectors`. Below zero the net is behind, and following it would turn the
    dependence around instead of removing it.
    """
    return _bound_per_dimension(club, given, vectors, corrects=True).clamp(min=0).sum()


def _noisy(vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    return vectors + NOISE * torch.randn_like(vectors)
