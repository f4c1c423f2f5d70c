"""Verdicts of judges: ours, and the formats in which publishers store theirs."""
