"""Parity, timing, load and the statistics behind every claim."""
