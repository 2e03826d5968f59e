"""Plans: steps, their keys, compiling a spec into steps, and why a step would run."""
