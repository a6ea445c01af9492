"""All rows of a run against the oracles: how many should stand, how many stand, lost, doubled, wrong."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.installation import Installation
from tests.faults.matrix.letters import read_letters
from tests.support.hour_books import disagreement
from tests.support.hour_oracle import Model, earnings_of, expected_hours
from tests.support.hour_rows import read_books, read_hours, read_revisions
from tests.support.oracle import ExpectedRows
from tests.support.rows import difference, query, read_all, read_clicks

MODELS = [
    Model(user_id, user_id * 100 + number, kind, config)
    for user_id in range(1, 4)
    for number, (kind, config) in enumerate(
        (("last_touch", {}), ("linear", {}), ("time_decay", {"half_life_hours": 48}))
    )
]
_JOURNEYS = "SELECT conv_id, version, touches FROM `202_stream_journeys`"


@dataclass(slots=True)
class Tally:
    """Rows of all kinds together. Wrong is what stands and should not, without being another of an expected row."""

    expected: int = 0
    found: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    repeated_letters: int = 0  # that is allowed
    differences: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.differences)

    def compare(self, wanted: Iterable[tuple[Any, ...]], found: Iterable[tuple[Any, ...]], what: str) -> None:
        should, stands = Counter(map(tuple, wanted)), Counter(map(tuple, found))
        missing, surplus = should - stands, stands - should
        doubled = sum(count for row, count in surplus.items() if row in should)
        self.expected += should.total()
        self.found += stands.total()
        self.lost += missing.total()
        self.doubled += doubled
        self.wrong += surplus.total() - doubled
        if missing or surplus:
            self.differences.append(difference(list(should.elements()), list(stands.elements()), what=what))

    def note(self, text: str) -> None:
        """Something is not right that is no row of SQL."""
        if text:
            self.differences.append(text)


def audit(installation: Installation, *, by_version: bool = True) -> Tally:
    """Rows as the oracles say; topics and offsets as the rows. `by_version`: of a journey's records the greatest one
    counts, else the last."""
    tally = Tally()
    wanted = installation.expected()
    _compare_facts(tally, installation, wanted)
    _compare_letters(tally, installation)
    hours = expected_hours(earnings_of(wanted), MODELS)
    found = read_hours(installation.database_url)
    tally.compare(hours.snapshots, found.snapshots, "snapshots")
    tally.compare(hours.credits, found.credits, "credits")
    tally.note(disagreement(found, asyncio.run(read_books(installation.env)).read(), what="topics"))
    tally.note(_journeys_topic(installation, by_version=by_version))
    try:
        read_revisions(installation.database_url)
    except AssertionError as error:
        tally.note(str(error))
    stored, committed = installation.stored_offsets(), installation.committed()
    if stored != committed:
        tally.note(f"SQL stands at {stored}, Kafka at {committed}")
    return tally


def _compare_facts(tally: Tally, installation: Installation, wanted: ExpectedRows) -> None:
    url = installation.database_url
    found = read_all(url)
    tally.compare(wanted.touchpoints, found.touchpoints, "touchpoints")
    tally.compare(wanted.conversion_logs, found.conversion_logs, "conversion logs")
    tally.compare(wanted.journeys, found.journeys, "journeys")
    tally.compare(wanted.clicks.values(), read_clicks(url), "clicks")


def _compare_letters(tally: Tally, installation: Installation) -> None:
    letters = read_letters(installation)
    tally.compare(letters.wanted, letters.found, "dead letters")
    tally.repeated_letters = letters.repeats
    if letters.unheard:
        tally.note(f"sent broken and in no dead letter: {', '.join(letters.unheard)}")


def _journeys_topic(installation: Installation, *, by_version: bool) -> str:
    """'' if the record of each conversion that counts is what SQL holds."""
    stored = [
        (conv_id, version, *(touch[1] for touch in json.loads(touches)))
        for conv_id, version, touches in query(installation.database_url, _JOURNEYS)
    ]
    published = installation.published() if by_version else _last_published(installation)
    found = [(conv_id, version, *clicks) for conv_id, (version, clicks) in published.items()]
    return difference(stored, found, what="journeys topic")


def _last_published(installation: Installation) -> dict[int, tuple[int, list[int]]]:
    """Version and clicks. All records of an account are on one partition, so that they have an order."""
    found = {}
    for record in installation.read("journeys"):
        journey = json.loads(record.value)
        found[journey["conv_id"]] = journey["version"], [touch["click_id"] for touch in journey["touches"]]
    return found
