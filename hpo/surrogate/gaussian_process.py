"""Gaussian-process regression on few, noisy values, and how much a new point promises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import erfcx, ndtr

Array = npt.NDArray[np.float64]
Seeds = npt.NDArray[np.int64]

SQRT_5 = math.sqrt(5)
JITTER = 1e-8
MAX_ITERATIONS = 60

# Log-normal priors, (mean, standard deviation) of the logarithm. The unit is the width of a
# parameter's range for length scales, and the variance of all values for the variances.
LENGTH_SCALE_PRIOR = (math.log(0.5), 0.8)
SIGNAL_PRIOR = (0.0, 1.0)
OWN_PRIOR = (math.log(0.03), 1.5)
SHARED_PRIOR = (math.log(0.1), 1.5)
NOISE_PRIOR = (math.log(0.1), 1.5)

LENGTH_SCALE_BOUNDS = (math.log(0.03), math.log(30))
SIGNAL_BOUNDS = (math.log(1e-3), math.log(30))
NOISE_BOUNDS = (math.log(1e-4), math.log(3))
ABSENT = math.log(1e-9)
"""Of a variance that the values cannot tell from noise."""


@dataclass(frozen=True, kw_only=True)
class GaussianProcess:
    """What is believed of a function after some noisy values of it.

    A value is the sum of what varies smoothly with the config, what one config has of its own, what
    all values of one seed share, and noise. The function is the first two.

    Attributes:
        points: (n, d) where it was looked at, each coordinate from 0 to 1.
        is_categorical: (d,) coordinates that are equal or not, without a distance.
        log_length_scales: (d,) how far one has to go until values differ.
        log_signal: variance of what is smooth.
        log_own: variance of what each point has of its own; absent if none was looked at twice.
        log_shared: variance of what the values of a seed share; absent if each has its own.
        log_noise: variance between two values at one point.
        seeds: (n,) equal where values share a seed.
        values: (n,) what was seen.
        factor: (n, n) lower Cholesky factor of the values' covariance.
        weights: (n,) that inverse times the values.
    """

    points: Array
    is_categorical: npt.NDArray[np.bool_]
    log_length_scales: Array
    log_signal: float
    log_own: float
    log_shared: float
    log_noise: float
    seeds: Seeds
    values: Array
    factor: Array
    weights: Array

    def posterior(self, points: Array) -> tuple[Array, Array]:
        """Mean and variance of the function, without noise, at (m, d) ``points``."""
        distances = squared_distances(points, self.points, self.is_categorical)
        scaled = distances * np.exp(-2 * self.log_length_scales)[:, None, None]
        signal, own = math.exp(self.log_signal), math.exp(self.log_own)
        covariances = signal * matern_52(scaled.sum(axis=0))[0] + own * _is_same(distances)
        explained = solve_triangular(self.factor, covariances.T, lower=True)
        variances = signal + own - (explained**2).sum(axis=0)
        return covariances @ self.weights, np.maximum(variances, 1e-12)

    def believing(self, points: Array) -> GaussianProcess:
        """The same process if what it expects at (m, d) ``points`` had been seen there."""
        return _conditioned(
            np.vstack([self.points, points]),
            np.concatenate([self.values, self.posterior(points)[0]]),
            self.is_categorical,
            np.concatenate([self.seeds, -1 - np.arange(len(points))]),  # seeds of their own
            np.array([*self.log_length_scales, *self._log_variances]),
        )

    @property
    def _log_variances(self) -> tuple[float, float, float, float]:
        return self.log_signal, self.log_own, self.log_shared, self.log_noise


def fit_gaussian_process(
    points: Array,
    values: Array,
    is_categorical: npt.NDArray[np.bool_],
    seeds: Seeds | None = None,
) -> GaussianProcess:
    """The process whose kernel is the likeliest under ``values`` and the priors above.

    Source: Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", algorithm 2.1 and
    equation 5.9; priors on the kernel as in Snoek et al. 2012, arXiv:1206.2944; seeds that values
    share are the blocks of Fisher 1935, "The Design of Experiments", with random effects.

    Args:
        points: (n, d), coordinates from 0 to 1.
        values: (n,), of mean 0 and variance 1.
        is_categorical: (d,).
        seeds: (n,) 0 or more, equal where values share a seed; None if none do.
    """
    n_coordinates = points.shape[1]
    seeds = np.arange(len(values)) if seeds is None else seeds
    kinds = _Kinds(squared_distances(points, points, is_categorical), seeds)
    priors = [LENGTH_SCALE_PRIOR] * n_coordinates
    priors += [SIGNAL_PRIOR, OWN_PRIOR, SHARED_PRIOR, NOISE_PRIOR]
    means, deviations = np.array(priors).T

    def loss(logs: Array) -> tuple[float, Array]:
        likelihood, gradient = _negative_log_likelihood(logs, kinds, values)
        away = (logs - means) / deviations
        return likelihood + 0.5 * float(away @ away), gradient + away / deviations

    bounds = [LENGTH_SCALE_BOUNDS] * n_coordinates + [SIGNAL_BOUNDS]
    bounds += [NOISE_BOUNDS if kinds.has_repeats else (ABSENT, ABSENT)]
    bounds += [NOISE_BOUNDS if kinds.has_shared else (ABSENT, ABSENT), NOISE_BOUNDS]
    best = minimize(
        loss,
        means.clip(*np.array(bounds).T),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": MAX_ITERATIONS},
    ).x
    return _conditioned(points, values, is_categorical, seeds, best)


def _conditioned(
    points: Array,
    values: Array,
    is_categorical: npt.NDArray[np.bool_],
    seeds: Seeds,
    logs: Array,
) -> GaussianProcess:
    kinds = _Kinds(squared_distances(points, points, is_categorical), seeds)
    factor = cholesky(_covariance(logs, kinds)[0], lower=True)
    return GaussianProcess(
        points=points,
        is_categorical=is_categorical,
        log_length_scales=logs[:-4],
        log_signal=float(logs[-4]),
        log_own=float(logs[-3]),
        log_shared=float(logs[-2]),
        log_noise=float(logs[-1]),
        seeds=seeds,
        values=values,
        factor=factor,
        weights=cho_solve((factor, True), values),
    )


class _Kinds:
    """What n values have in common, two by two.

    Attributes:
        distances: (d, n, n), squared.
        is_same: (n, n) 1 where they are of one point.
        is_shared: (n, n) 1 where they are of one seed.
    """

    def __init__(self, distances: Array, seeds: Seeds) -> None:
        self.distances = distances
        self.is_same = _is_same(distances)
        self.is_shared = (seeds[:, None] == seeds).astype(np.float64)
        n = len(seeds)
        self.has_repeats = bool(self.is_same.sum() > n)
        self.has_shared = bool(self.is_shared.sum() > n)


def _is_same(distances: Array) -> Array:
    same: Array = (distances.sum(axis=0) == 0).astype(np.float64)
    return same


def _negative_log_likelihood(logs: Array, kinds: _Kinds, values: Array) -> tuple[float, Array]:
    """Of (length scales, signal, own, shared, noise) as logarithms, with its gradient."""
    covariance, scaled, slope, correlation = _covariance(logs, kinds)
    factor = cholesky(covariance, lower=True)
    inverse = cho_solve((factor, True), np.eye(len(values)))
    weights = inverse @ values
    loss = 0.5 * float(values @ weights) + float(np.log(np.diag(factor)).sum())
    outer = 0.5 * (inverse - np.outer(weights, weights))
    signal, own, shared, noise = np.exp(logs[-4:])
    gradient = [
        *np.einsum("ij,dij->d", signal * outer * slope, scaled),
        signal * float((outer * correlation).sum()),
        own * float((outer * kinds.is_same).sum()),
        shared * float((outer * kinds.is_shared).sum()),
        noise * float(np.trace(outer)),
    ]
    return loss, np.array(gradient)


def _covariance(logs: Array, kinds: _Kinds) -> tuple[Array, Array, Array, Array]:
    """Of the values; with what its derivatives are made of."""
    scaled = kinds.distances * np.exp(-2 * logs[:-4])[:, None, None]
    correlation, slope = matern_52(scaled.sum(axis=0))
    signal, own, shared, noise = np.exp(logs[-4:])
    covariance: Array = signal * correlation + own * kinds.is_same + shared * kinds.is_shared
    covariance[np.diag_indices_from(covariance)] += noise + JITTER
    return covariance, scaled, slope, correlation


def squared_distances(points: Array, others: Array, is_categorical: npt.NDArray[np.bool_]) -> Array:
    """(d, m, n): between (m, d) and (n, d), a coordinate at a time; 0 or 1 where categorical."""
    differences: Array = points.T[:, :, None] - others.T[:, None, :]
    differences[is_categorical] = differences[is_categorical] != 0
    return differences**2


def matern_52(squared: Array) -> tuple[Array, Array]:
    """Matern's kernel of smoothness 5/2 at squared distances, and minus twice its derivative.

    Source: Rasmussen & Williams 2006, equation 4.17.
    """
    root = SQRT_5 * np.sqrt(squared)
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, 5 / 3 * (1 + root) * decay


def log_expected_improvement(means: Array, variances: Array, threshold: float) -> Array:
    """Logarithm of how much a normal variable is expected to exceed ``threshold``.

    Source: Ament et al. 2023, arXiv:2310.20708, equation 9.
    """
    deviations = np.sqrt(variances)
    z = (means - threshold) / deviations
    log_density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    low, high = np.minimum(z, -1), np.maximum(z, -1)
    # Where z < -1 the two terms of z * cdf(z) + pdf(z) cancel; erfcx gives what is left of them.
    far = log_density + np.log1p(low * erfcx(-low / math.sqrt(2)) * math.sqrt(math.pi / 2))
    near = np.log(high * ndtr(high) + np.exp(-0.5 * high**2) / math.sqrt(2 * math.pi))
    logs: Array = np.where(z < -1, far, near) + np.log(deviations)
    return logs


def to_normal(values: Array) -> Array:
    """Bend values until they look normally distributed; their order stays. Mean 0, variance 1.

    A few configs that learn nothing would otherwise make all the others look alike. Source: Yeo &
    Johnson 2000, Biometrika 87; in Bayesian optimization Cowen-Rivers et al. 2022,
    arXiv:2012.03826.
    """
    spread = float(values.std())
    if spread < 1e-12 * max(1.0, float(np.abs(values).max())):
        return np.zeros_like(values)
    from scipy.stats import yeojohnson  # here: it takes longer to load than all the rest of scipy

    bent = np.asarray(yeojohnson((values - values.mean()) / spread)[0], dtype=np.float64)
    spread = float(bent.std())
    return (bent - bent.mean()) / spread if spread > 1e-12 else np.zeros_like(values)
