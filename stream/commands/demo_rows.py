"""The rows of the demo's SQLite file, read as any other program would read them."""

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
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


class ShownHour(NamedTuple):
    """A row of 202_stream_hours."""

    revision: int
    is_final: bool


class TotalKey(NamedTuple):
    """Which row of 202_attribution_snapshots; by the model's slug, for each account has models of its own."""

    user_id: int
    model: str
    date_hour: int
    scope: str
    scope_id: int  # 0: global


class ShownTotal(NamedTuple):
    """What it says. Money in steps of 0.0001, as its columns have it."""

    clicks: int
    conversions: int
    revenue: int
    cost: int


class CreditKey(NamedTuple):
    """Which row of 202_attribution_touchpoints."""

    user_id: int
    model: str
    date_hour: int
    conv_id: int
    position: int


class ShownCredit(NamedTuple):
    """What it says. `parts` of 100,000."""

    click_id: int
    parts: int


Hours = Mapping[tuple[int, int], ShownHour]  # by account and first second
Totals = Mapping[TotalKey, ShownTotal]
Credits = Mapping[CreditKey, ShownCredit]


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

    def hours(self) -> Hours:
        rows = self._fetch("SELECT user_id, date_hour, revision, is_final FROM `202_stream_hours`")
        return {_whole_pair(user, hour): ShownHour(int(str(rev)), final == 1) for user, hour, rev, final in rows}

    def models(self) -> Mapping[int, str]:
        """Slugs by id."""
        rows = self._fetch("SELECT model_id, model_slug FROM `202_attribution_models`")
        return {int(str(model_id)): str(slug) for model_id, slug in rows}

    def totals(self) -> Totals:
        rows = self._fetch(
            "SELECT user_id, model_slug, date_hour, scope_type, coalesce(scope_id, 0), attributed_clicks,"
            " attributed_conversions, attributed_revenue, attributed_cost"
            " FROM `202_attribution_snapshots` JOIN `202_attribution_models` USING (model_id, user_id)"
        )
        return {
            TotalKey(int(str(user)), str(model), int(str(hour)), str(scope), int(str(scope_id))): ShownTotal(
                int(str(clicks)), int(str(conversions)), parts_of(revenue, 10_000), parts_of(cost, 10_000)
            )
            for user, model, hour, scope, scope_id, clicks, conversions, revenue, cost in rows
        }

    def credits(self) -> Credits:
        rows = self._fetch(
            "SELECT s.user_id, model_slug, date_hour, conv_id, position, click_id, credit"
            " FROM `202_attribution_touchpoints` JOIN `202_attribution_snapshots` s USING (snapshot_id)"
            " JOIN `202_attribution_models` USING (model_id)"
        )
        return {
            CreditKey(int(str(user)), str(model), int(str(hour)), int(str(conv_id)), int(str(position))): ShownCredit(
                int(str(click_id)), parts_of(credit, 100_000)
            )
            for user, model, hour, conv_id, position, click_id, credit in rows
        }


def parts_of(amount: object, parts: int) -> int:
    """A decimal in whole parts; SQLite gives it as a number of its own choice."""
    return int((Decimal(str(amount)) * parts).to_integral_value())


def _whole_pair(first: object, second: object) -> tuple[int, int]:
    return int(str(first)), int(str(second))


def outcome_counts(journeys: Mapping[int, ShownJourney]) -> Counter[str]:
    return Counter(journey.outcome for journey in journeys.values())
