"""Auditing: rules that compare records with records, and what an audit has found, in words."""

from hpo.auditing.difference import NOTHING, Audit, Counts, Difference, audit_text
from hpo.auditing.records import BACKUP, REQUEUE, Records, record_differences

__all__ = [
    "BACKUP",
    "NOTHING",
    "REQUEUE",
    "Audit",
    "Counts",
    "Difference",
    "Records",
    "audit_text",
    "record_differences",
]
