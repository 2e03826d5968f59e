"""Everything that mlo keeps in one folder, as one object: built once per command and passed down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from orchestrator.store.digest import StatCache
from orchestrator.store.home import Home
from orchestrator.store.locks import share
from orchestrator.store.receipts import Receipts
from orchestrator.store.scratch import scratch_folder
from orchestrator.store.state import StateFile
from orchestrator.store.trees import TreeStore

__all__ = ["Store"]


@dataclass(frozen=True, slots=True)
class Store:
    """The contents of a home.

    Attributes:
        home: where it is.
        trees: results of steps.
        receipts: which steps are done.
        state: what is deployed.
        stat_cache: digests of the user's files by their stat; `save` it at the end of a command.
    """

    home: Home
    trees: TreeStore
    receipts: Receipts
    state: StateFile
    stat_cache: StatCache

    @classmethod
    def at(cls, home: Home) -> Self:
        """The store of this home. Nothing is read or written yet."""
        return cls(home, TreeStore(home), Receipts(home), StateFile(home), StatCache(home))

    @classmethod
    def open(cls, home: Home) -> Self:
        """The store of this home, made if it is not there.

        Raises:
            StoreFailed: it cannot be made or written, or it has the layout of another version of mlo.
        """
        home.prepare()
        return cls.at(home)

    @contextmanager
    def in_use(self, what: str, timeout: float = 600.0) -> Iterator[None]:
        """Keep garbage collection out while trees and receipts are used; any number of users at once.

        Args:
            what: what is being done, for the message to waiting commands.
            timeout: seconds to wait for a garbage collection that is running.

        Raises:
            Busy: garbage collection did not end in time.
        """
        with share(self.home.in_use_lock, timeout=timeout, info={"what": what}):
            yield

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """A new, empty folder on the same disk as the trees; removed at the end with all that is left in it.

        Garbage collection is kept out meanwhile, so that a tree that is committed inside gets its receipt first.

        Raises:
            StoreFailed: it cannot be created.
            Busy: garbage collection did not end in time.
        """
        with self.in_use("running a step"), scratch_folder(self.home.scratch) as folder:
            yield folder
