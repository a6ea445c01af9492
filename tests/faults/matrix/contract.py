"""What a fault is, and what it may use while it strikes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.installation import Installation
from tests.faults.matrix.flow import Flow
from tests.faults.matrix.servers import Provide, Servers, shared_servers
from tests.faults.matrix.watch import Watch
from tests.faults.matrix.workforce import Workforce
from tests.support.processes import wait_for

EARLIEST, LATEST = 0.2, 0.8  # of the records, when a fault strikes


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, while records come in at a steady pace and workers are at work.

    `strike` returns once the fault is over and whatever was to be done by hand is done; the rows are compared after it.
    """

    name: str
    about: str  # a line for the report
    strike: Callable[["Run"], None]
    database: str = "mariadb"  # or "sqlite"
    servers: Provide = shared_servers
    workers: int = 1
    events: int = 4000
    rate: int = 250  # records a second
    partitions: int = 3
    drain_seconds: int = 120
    has_clean_end: bool = True  # the last workers exit 0 on SIGTERM
    forgets_versions: bool = (
        False  # the database does: of each journey the last record counts, not the greatest version
    )


@dataclass(slots=True)
class Blow:
    """One stroke of a fault. Times are those of `time.monotonic`."""

    at: float
    share: float  # of the records that were in SQL
    healed: float | None = None


class MissedIt(AssertionError):
    """The fault did not strike while it could do harm."""


class Run:
    """One fault on one installation, with everything that a strike may use."""

    def __init__(self, fault: Fault, servers: Servers, installation: Installation, folder: Path) -> None:
        self.fault = fault
        self.servers = servers
        self.installation = installation
        self.folder = folder  # of the run alone; kept, with the logs, until the fault is run anew
        self.flow = Flow(installation, fault.rate)
        self.watch = Watch(installation, self.flow)
        self.workforce = Workforce(installation)
        self.blows: list[Blow] = []
        self.notes: list[str] = []

    def progress(self) -> float:
        """The share of all records, those not sent yet included, whose effects are committed to SQL."""
        return self.watch.progress()

    def wait_progress(self, share: float, *, seconds: float = 120) -> None:
        wait_for(lambda: self.progress() >= share, f"{share:.0%} of the records", seconds=seconds)

    def struck(self) -> Blow:
        """To be called at the stroke itself, each time. Fails unless the records are in mid-stream."""
        share = self.progress()
        if not EARLIEST <= share <= LATEST:
            raise MissedIt(f"struck at {share:.0%} of the records, not between {EARLIEST:.0%} and {LATEST:.0%}")
        blow = Blow(time.monotonic(), share)
        self.blows.append(blow)
        return blow

    def healed(self) -> None:
        """To be called when what was broken works again; without it, a fault is over as it strikes."""
        self.blows[-1].healed = time.monotonic()

    def note(self, text: str) -> None:
        """A fact for the report, such as what was refused and how it was mended."""
        self.notes.append(text)

    def wait_logged(self, text: str, *, seconds: float = 60) -> None:
        """Until some worker has written these words."""
        wait_for(lambda: text in self.workforce.log_text(), f"{text!r} in a worker's log", seconds=seconds)

    def wait_caught_up(self, *, seconds: float = 120) -> None:
        """Until the workers have done all that was in the log when the last stroke was over."""
        since = self.blows[-1].healed or self.blows[-1].at
        wait_for(lambda: self.watch.seconds_to_catch_up(since) is not None, "the workers to catch up", seconds=seconds)


def named(faults: Sequence[Fault]) -> dict[str, Fault]:
    found = {fault.name: fault for fault in faults}
    assert len(found) == len(faults), "two faults have one name"
    return found
