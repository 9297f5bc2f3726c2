"""Passwords in URLs: found, and kept out of everything that is shown."""

from __future__ import annotations

import re

import sqlalchemy as sa

HIDDEN = "***"

IN_QUERY = re.compile(
    r"([?&;][^=&;?\s]*(?:pass(?!file)|pwd|secret|token|credential|api_?key|odbc_connect)[^=&;\s]*=)"
    r"[^&\s]+",
    re.IGNORECASE,
)

# user:password@, as SQLAlchemy reads it: a password may hold anything but an @. If it does hold
# one, unquoted, what follows it is taken for the host; it is hidden here as well.
IN_URL = re.compile(r"(//[^:/]*):[^@\n]+@(?:[^/?#\s]*@)?")
IN_TEXT = re.compile(r"(//[^:/\s]*):[^@\s]+@(?:[^/?#\s]*@)?")  # a sentence goes on behind a blank


def has_password(url: str) -> bool:
    """Whether ``url`` carries one, in its user part or in its query."""
    return bool(IN_URL.search(url) or IN_QUERY.search(url))


def without_passwords(text: str) -> str:
    """A message, with the passwords of all URLs in it hidden."""
    return IN_QUERY.sub(rf"\1{HIDDEN}", IN_TEXT.sub(rf"\1:{HIDDEN}@", text))


def shown_url(url: str | sa.URL) -> str:
    """The URL without its password, for messages."""
    if isinstance(url, sa.URL):
        url = url.render_as_string(hide_password=True)
    try:
        sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        if not has_password(url):  # it may be any part of what cannot be told apart
            return repr(re.sub(r"://.*", f"://{HIDDEN}", url))
    return IN_QUERY.sub(rf"\1{HIDDEN}", IN_URL.sub(rf"\1:{HIDDEN}@", url))


def parse_url(url: str) -> sa.URL:
    """``url`` in its parts, none of which is a part of the password that was not quoted.

    Raises:
        sqlalchemy.exc.ArgumentError: if it is no URL.
        ValueError: if its parts cannot be told apart; the message holds none of them.
    """
    try:
        parsed = sa.make_url(url)
    except ValueError:
        raise ValueError("its port is no number, or its password holds a `/`") from None
    if parsed.host and "@" in parsed.host:
        raise ValueError("its user or password holds an `@`, which is written %40 in a URL")
    return parsed
