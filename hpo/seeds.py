"""Seeds that come from what a thing is, never from when or where it runs."""

from __future__ import annotations

import zlib

import numpy as np


def derive_seed(study_seed: int, number: int, purpose: str) -> int:
    """Seed for one purpose of one thing: ``derive_seed(7, 17, "trial")``.

    Args:
        study_seed: the spec's seed, >= 0.
        number: which of its kind: a trial number, the index of a re-run, ... >= 0.
        purpose: a word, e.g. "proposal", "trial", "rerun", "retrain".

    Returns:
        An integer in 0 .. 2**32 - 1; unrelated for any two different triples.
    """
    words = [study_seed, number, zlib.crc32(purpose.encode())]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
