"""Statistics of verdicts: win rates, ratings, style control, judge agreement."""
