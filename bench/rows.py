"""Did ours do the work? What stands in the database, against what the traffic comes to."""

from collections.abc import Iterable

from bench.traffic import Event, Expected
from tests.support.oracle import expected
from tests.support.rows import differences, query

_CLICKS = "SELECT COUNT(*) FROM `202_stream_clicks`"
_JOURNEYS = "SELECT COUNT(*) FROM `202_stream_journeys`"
_TOUCHPOINTS = (
    "SELECT COUNT(*), COALESCE(SUM(click_id), 0), COALESCE(SUM(position), 0) FROM `202_conversion_touchpoints`"
)


def wrong_counts(database_url: str, wanted: Expected) -> str:
    """'' if counts and sums are as expected."""
    (clicks,), (journeys,) = query(database_url, _CLICKS)[0], query(database_url, _JOURNEYS)[0]
    touchpoints, click_ids, positions = map(int, query(database_url, _TOUCHPOINTS)[0])
    found = Expected(clicks, journeys, touchpoints, click_ids, positions, wanted.cents)  # paid: see bench.hours
    return "" if found == wanted else f"found {found}, expected {wanted}"


def wrong_rows(database_url: str, events: Iterable[Event], append_time: int) -> str:
    """'' if every row of touchpoints, conversion logs and journeys is the oracle's. For small sets."""
    records = [("clicks" if event.is_click else "conversions", event.value, append_time) for event in events]
    return differences(expected(records), database_url)
