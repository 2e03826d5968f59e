"""From a model file to a first spec of it."""
