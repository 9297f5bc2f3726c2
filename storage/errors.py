"""What goes wrong with a database, in words that a user can act on."""

from __future__ import annotations


class DatabaseError(Exception):
    """The database cannot be opened or used; the message says which and why."""


class LeaseHeldError(DatabaseError):
    """Another process drives it."""


class LostLeaseError(DatabaseError):
    """This process drives it no more, and must not write."""
