"""Bootstrap intervals cover what they should, repeat exactly and pair cases."""

import numpy as np
from scipy.stats import norm

from bbqrec.evaluation import bootstrap_intervals


def test_intervals_cover_the_true_mean_as_often_as_they_promise() -> None:
    generator = np.random.default_rng(0)
    samples = generator.random((200, 400)) < 0.3  # 400 experiments of 200 cases

    intervals = bootstrap_intervals(
        samples.astype(np.float64), generator, num_resamples=500, confidence=0.9
    )

    is_covered = (intervals.low <= 0.3) & (intervals.high >= 0.3)
    assert 0.86 <= is_covered.mean() <= 0.94


def test_interval_ends_agree_with_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(2.0, 3.0, size=(5000, 1))

    intervals = bootstrap_intervals(values, np.random.default_rng(2), num_resamples=4000)

    half = norm.ppf(0.975) * values.std() / np.sqrt(5000)
    np.testing.assert_allclose(intervals.mean, values.mean(axis=0))
    np.testing.assert_allclose(intervals.high - intervals.mean, half, rtol=0.06)
    np.testing.assert_allclose(intervals.mean - intervals.low, half, rtol=0.06)


def test_resamples_agree_with_a_loop_over_them() -> None:
    values = np.random.default_rng(3).random((7, 2))

    intervals = bootstrap_intervals(values, np.random.default_rng(4), num_resamples=50)

    draws = np.random.default_rng(4).integers(7, size=(50, 7))
    means = np.array([values[draw].mean(axis=0) for draw in draws])
    np.testing.assert_allclose(intervals.low, np.quantile(means, 0.025, axis=0))
    np.testing.assert_allclose(intervals.high, np.quantile(means, 0.975, axis=0))


def test_a_pair_that_never_differs_has_the_interval_zero_and_a_seed_repeats() -> None:
    scores = np.random.default_rng(5).random(333)
    differences = np.stack([scores - scores, scores - 0.9 * scores], axis=1)

    first, second = (
        bootstrap_intervals(differences, np.random.default_rng(6), num_resamples=200)
        for _ in range(2)
    )

    assert (first.mean[0], first.low[0], first.high[0]) == (0.0, 0.0, 0.0)
    assert first.low[1] > 0
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
