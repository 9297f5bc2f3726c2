"""Which images train, which validate, which test: decided by a seed, each class in proportion."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from trainables.images.arrays import TEST, TRAIN, VALIDATION, Indices, Targets
from trainables.images.errors import DataConfigError, DataError


def split_parts(
    targets: Targets,
    parts: npt.NDArray[np.int8],
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    class_names: Sequence[str],
) -> tuple[Indices, Indices, Indices]:
    """Indices of training, validation and test part: disjoint, and complete but for UNREADABLE.

    Parts that the data set has are taken as they are; those that it lacks are split off from what
    it leaves unassigned, of which the fractions count. Classes, targets of shape (n,), keep their
    proportion; other targets are split at random.

    Raises:
        DataError: if a class has too few images to be in every part, whatever the fractions.
        DataConfigError: if it has too few with these fractions.
    """
    train, validation, test = (
        np.flatnonzero(parts == part).astype(np.int64) for part in (TRAIN, VALIDATION, TEST)
    )
    split_off = partial(
        _split_off, whole=train, targets=targets, seed=seed, class_names=class_names
    )
    rest_fraction = 1.0
    if not len(test):
        train, test = split_off(train, test_fraction)
        rest_fraction -= test_fraction
    if not len(validation):
        train, validation = split_off(train, validation_fraction / rest_fraction)
    if targets.ndim == 1:
        absent = set(range(len(class_names))) - set(targets[train].tolist())
        if absent:
            names = ", ".join(repr(class_names[label]) for label in sorted(absent))
            raise DataError(f"no image that can be used to train on {names}")
    return train, validation, test


def subset(train: Indices, targets: Targets, n: int, seed: int) -> Indices:
    """``n`` of the training images; with the same seed, fewer are a subset of more.

    Each class is there within one image of its share.

    Raises:
        DataConfigError: if there are fewer than ``n``.
    """
    if n > len(train):
        raise DataConfigError(f"n_train: must be <= the {len(train)} training images, got {n}")
    shuffled = np.random.default_rng(seed).permutation(train)
    if targets.ndim > 1:
        return shuffled[:n]
    return shuffled[_proportional_order(targets[shuffled])[:n]]


def _split_off(
    pool: Indices,
    fraction: float,
    *,
    whole: Indices,
    targets: Targets,
    seed: int,
    class_names: Sequence[str],
) -> tuple[Indices, Indices]:
    """What stays, and about ``fraction`` of ``pool``, which is left of ``whole``."""
    from sklearn.model_selection import train_test_split

    strata = targets[pool] if targets.ndim == 1 else None
    try:
        stays, leaves = train_test_split(
            pool, test_size=fraction, random_state=seed, stratify=strata
        )
    except ValueError:  # a class of one image, fewer places than classes, or no image at all
        is_complete = False
    else:
        is_complete = strata is None or all(
            len(np.unique(targets[part])) == len(np.unique(strata)) for part in (stays, leaves)
        )
    if is_complete:
        return stays, leaves
    message = _too_few(pool, targets, fraction, class_names)
    if _n_fewest(whole, targets) < 2:
        raise DataError(f"{message}; add images")
    raise DataConfigError(f"{message}; add images, or change validation_fraction and test_fraction")


def _n_fewest(pool: Indices, targets: Targets) -> int:
    """Images of the smallest class in ``pool``; all of them, where there are no classes."""
    classes = targets[pool] if targets.ndim == 1 else np.zeros(len(pool))
    return int(np.unique(classes, return_counts=True)[1].min(initial=len(pool)))


def _too_few(pool: Indices, targets: Targets, fraction: float, class_names: Sequence[str]) -> str:
    message = f"{len(pool)} images are too few to split {fraction:.0%} of them off"
    if targets.ndim == 1:
        counts = np.bincount(targets[pool].astype(np.int64), minlength=len(class_names))
        smallest = int(counts.argmin())
        message += (
            f" with every class in both parts: {class_names[smallest]!r} has {counts[smallest]}"
        )
    return message


def _proportional_order(classes: Targets) -> Indices:
    """An order in which every prefix has each class within one image of its share.

    Image j (from 1) of a class with a share p of all images must not come before place
    (j - 1) / p + 1 nor after place j / p; taking the most urgent of those that may come always
    meets both. Source: Tijdeman 1980, "The chairman assignment problem".
    """
    n = len(classes)
    jobs: list[tuple[int, int, int]] = []  # release, deadline, member
    for members in (np.flatnonzero(classes == label) for label in np.unique(classes)):
        j = np.arange(1, len(members) + 1)
        release, deadline = (j - 1) * n // len(members), -(-j * n // len(members))
        jobs += zip(release.tolist(), deadline.tolist(), members.tolist(), strict=True)
    jobs.sort()
    order: list[int] = []
    urgent: list[tuple[int, int]] = []
    upcoming = iter(jobs)
    following = next(upcoming, None)
    for place in range(n):
        while following is not None and following[0] <= place:
            heapq.heappush(urgent, following[1:])
            following = next(upcoming, None)
        order.append(heapq.heappop(urgent)[1])
    return np.array(order, np.int64)
