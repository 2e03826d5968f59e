"""LiteRT: files that a device runs; there is no server."""
