"""What outlives a run: content-addressed trees, receipts, state, locks; all crash-safe."""
