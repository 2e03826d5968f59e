"""Counts the bytes that clients make the server hold, so that many slow ones cannot fill the memory together."""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """Bytes of requests that are still arriving and of answers that are not read yet, over all connections."""

    def __init__(self, limit: int) -> None:
        """Start with nothing held.

        Args:
            limit: bytes; whoever comes when more are held already is turned away, so one alone always gets through.
        """
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Count `size` bytes; False if the limit had been passed before."""
        over = self.held > self.limit
        self.held += size
        return not over

    def give_back(self, size: int) -> None:
        """Bytes that were taken are gone."""
        self.held -= size
