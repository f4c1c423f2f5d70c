"""Verdicts that were stored by other tools, and by salsa: one room a format."""

from salsa_cli.evaluation.stored.formats import Convention, Stored, read
from salsa_cli.evaluation.stored.oddities import remarks

__all__ = ["Convention", "Stored", "read", "remarks"]
