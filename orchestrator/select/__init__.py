"""Selects the winner: fates, ranking, the decision and its chart."""
