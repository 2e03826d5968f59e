"""A made-up target, as somebody would add one: a shelf in the store, with a card that says which revision is in use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar, Literal, Self

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.store.state import PlacementRecord
from orchestrator.targets.certificate import Expected, in_file
from orchestrator.targets.placement import Placement
from orchestrator.targets.section import DeploySection
from orchestrator.targets.target import (
    PLAIN,
    Description,
    Observed,
    Offers,
    Release,
    Site,
    Started,
    require_whole_share,
)


class ShelfDeploy(DeploySection):
    """On a shelf."""

    target: Literal["shelf"]
    board: int = 1


class ShelfPlacement(Placement):
    """Which board of the shelf."""

    TARGET: ClassVar[str] = "shelf"
    VERSION: ClassVar[int] = 1

    board: int


class ShelfTarget:
    """One deployment's boards."""

    def __init__(self, site: Site, board: int) -> None:
        self._site = site
        self._board = board
        self._place = site.store.home.root / "shelf" / f"board-{board}" / site.name

    @classmethod
    def wanted(cls, section: ShelfDeploy, base: Path, site: Site) -> Self:
        del base
        return cls(site, section.board)

    @classmethod
    def placed(cls, placement: PlacementRecord, site: Site) -> Self:
        return cls(site, ShelfPlacement.of(placement).board)

    @property
    def placement(self) -> PlacementRecord:
        return ShelfPlacement(board=self._board).record()

    def is_at(self, placement: PlacementRecord) -> bool:
        return placement == self.placement

    def difference(self, endpoint: str) -> str | None:
        del endpoint
        return None

    def describe(self) -> Description:
        return Description(
            where=f"board {self._board}",
            label="shelf",
            in_use="lies in front",
            removal=f"Clear board {self._board} of {self._site.name}",
            removed="cleared away",
        )

    def observe(self) -> Observed:
        card = self._card()
        where = self.describe().where
        if card is None:
            return Observed(running=False, health="stopped", reason="the board is empty", endpoint=where)
        whole = (self._place / str(card) / "server.json").is_file()
        return Observed(
            running=True,
            health="healthy" if whole else "degraded",
            reason="" if whole else "the label fell off",
            endpoint=where,
            revision=card,
        )

    def history(self) -> tuple[int, ...]:
        return tuple(sorted(int(path.name) for path in self._place.glob("[0-9]*")))

    def url(self) -> str:
        raise self._failed("E619", f"{self._site.name} lies on a shelf and answers nothing")

    def certificate(self, named: Path, url: str) -> Expected:
        del url
        return in_file(named)

    def logs(self, lines: int, *, follow: bool) -> Iterator[str]:
        del follow
        return iter([f"revision {number} lies here" for number in self.history()][-lines:])

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()

    def check(self, offers: Offers = PLAIN) -> None:
        del offers
        if self._board > 9:
            raise self._failed("E620", f"the shelf has no board {self._board}")

    def prepare(self, live: Release | None = None) -> str:
        del live
        self._place.mkdir(parents=True, exist_ok=True)
        return self.describe().where

    def start(self, release: Release, progress: Callable[[str], None] = lambda _: None) -> Started:
        progress("putting it on the shelf")
        shutil.copytree(release.serving, self._place / str(release.revision), dirs_exist_ok=True)
        return Started(release.revision, None, proof="it was looked at")

    def split(self, revision: int, share: float) -> None:
        del revision
        require_whole_share("shelf", share)

    def switch(self, revision: int) -> tuple[str, ...]:
        (self._place / "card.json").write_text(json.dumps(revision))
        return ()

    def drop(self, revision: int) -> None:
        if revision != self._card():
            shutil.rmtree(self._place / str(revision), ignore_errors=True)

    def stop(self) -> tuple[str, ...]:
        shutil.rmtree(self._place, ignore_errors=True)
        return ("leaving dust",)

    def _card(self) -> int | None:
        card = self._place / "card.json"
        return int(card.read_text()) if card.is_file() else None

    @staticmethod
    def _failed(code: str, message: str) -> DeployFailed:
        return DeployFailed(Diagnostic(code, message, remedy="use another target"))
