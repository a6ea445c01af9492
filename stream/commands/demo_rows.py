"""The rows of the demo's SQLite file, read as any other program would read them."""

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class ShownTouch(NamedTuple):
    """A touch of a journey as the demo shows it."""

    click_time: int
    click_id: int
    source: int  # ppc_account_id


class ShownJourney(NamedTuple):
    """A row of 202_stream_journeys."""

    conv_id: int
    conv_time: int
    payout: float
    outcome: str
    click_unknown: bool
    visitor_id: str
    version: int
    touches: Sequence[ShownTouch]


class StoredRows:
    """One look at the file; several statements see one state, for nobody writes when the demo reads."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _fetch(self, statement: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(statement).fetchall()

    def count(self, relation: str) -> int:
        ((count,),) = self._fetch(f"SELECT count(*) FROM `{relation}`")
        assert isinstance(count, int)
        return count

    def journeys(self) -> Mapping[int, ShownJourney]:
        """By conversion id."""
        rows = self._fetch(
            "SELECT conv_id, conv_time, click_payout, outcome, click_unknown, journey_visitor_id, version, touches"
            " FROM `202_stream_journeys`"
        )
        found = {}
        for conv_id, conv_time, payout, outcome, unknown, visitor, version, touches in rows:
            shown = [ShownTouch(touch[0], touch[1], touch[2]) for touch in json.loads(str(touches))]
            number = int(str(conv_id))
            found[number] = ShownJourney(
                number, int(str(conv_time)), float(str(payout)), str(outcome), bool(unknown), str(visitor),
                int(str(version)), shown,
            )  # fmt: skip
        return found

    def touchpoints(self) -> Mapping[int, tuple[int, ...]]:
        """Click ids by position, by conversion id: the rows that Prosper202 reads."""
        rows = self._fetch("SELECT conv_id, click_id FROM `202_conversion_touchpoints` ORDER BY conv_id, position")
        found: dict[int, tuple[int, ...]] = {}
        for conv_id, click_id in rows:
            number = int(str(conv_id))
            found[number] = (*found.get(number, ()), int(str(click_id)))
        return found

    def logged(self) -> frozenset[int]:
        """Conversions in 202_conversion_logs."""
        return frozenset(int(str(conv_id)) for (conv_id,) in self._fetch("SELECT conv_id FROM `202_conversion_logs`"))


def outcome_counts(journeys: Mapping[int, ShownJourney]) -> Counter[str]:
    return Counter(journey.outcome for journey in journeys.values())
