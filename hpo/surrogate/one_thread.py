"""Linear algebra with one thread: on matrices this small, threads cost more than they save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, BLAS and OpenMP (torch's, too) use one thread: the others belong to the trials."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
