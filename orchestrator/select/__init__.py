"""The choice: fates, ranking, the decision and its chart."""
