"""Limits the bytes buffered for all clients together, so that many slow clients cannot exhaust the memory."""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """Bytes of incoming requests and unread answers over all connections."""

    def __init__(self, limit: int) -> None:
        """Start at zero.

        Args:
            limit: bytes; above it, new requests are refused, so a single request is always accepted.
        """
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Count `size` bytes; False if the limit was already exceeded."""
        over = self.held > self.limit
        self.held += size
        return not over

    def give_back(self, size: int) -> None:
        """Release bytes."""
        self.held -= size
