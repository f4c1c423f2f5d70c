"""Figures made from verdicts: win rates, ratings, style control, agreement of judges."""
