"""Words that messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 20
"""Known names; of more, the nearest one says enough."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A name that is none of ``known``: the nearest one, and all of them unless they are many."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    if close and len(known) > MAX_LISTED:
        return f"unknown {what}: {name!r}{hint}"
    return f"unknown {what}: {name!r}{hint} Known: {', '.join(sorted(known))}"
