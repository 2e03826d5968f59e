"""Child processes: guarded, confined to CPUs and memory, with a short environment."""
