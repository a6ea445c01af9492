"""What must stand in SQL after the demo's traffic: worked out by looking through all facts, one conversion at a time.

Shares no code with `stream.core`, so that the demo's verdict is worth something.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stream.commands.demo_traffic import DAY, Fields, Traffic

LOOKBACK_DAYS = 30
_LIMIT = 25


@dataclass(frozen=True, slots=True)
class Expected:
    """Rows, by conversion id."""

    outcomes: Mapping[int, str]
    touches: Mapping[int, tuple[int, ...]]  # click ids by position; only of conversions that count


def expected_rows(traffic: Traffic) -> Expected:
    """Slow and plain: every click is looked at for every conversion."""
    outcomes = {conv_id: _outcome(paid, traffic.conversions.values()) for conv_id, paid in traffic.conversions.items()}
    touches = {
        conv_id: _touches(traffic.conversions[conv_id], traffic.clicks)
        for conv_id, outcome in outcomes.items()
        if outcome == "counted"
    }
    return Expected(outcomes, touches)


def _outcome(paid: Fields, everyone: Iterable[Fields]) -> str:
    if paid.get("deleted"):
        return "deleted"
    order = paid.get("transaction_id")
    if not order:
        return "counted"
    earliest = min(
        (other["conv_time"], other["conv_id"])
        for other in everyone
        if (other["click_id"], other.get("transaction_id")) == (paid["click_id"], order) and not other.get("deleted")
    )
    return "counted" if earliest == (paid["conv_time"], paid["conv_id"]) else "duplicate"


def _touches(paid: Fields, clicks: Mapping[int, Fields]) -> tuple[int, ...]:
    converting = clicks.get(paid["click_id"])
    visitor = (converting or {}).get("visitor_id") or paid.get("visitor_id", "")
    last = (paid["conv_time"], 2**63)
    converting_place = ((converting or paid)["click_time"], paid["click_id"])
    if visitor:
        last = min(last, converting_place)
    found = sorted(
        (click["click_time"], click_id)
        for click_id, click in clicks.items()
        if (click["user_id"], click["campaign_id"]) == (paid["user_id"], paid["campaign_id"])
        and click.get("visitor_id", "") == visitor
        and not (visitor and click.get("click_bot"))
        and paid["conv_time"] - LOOKBACK_DAYS * DAY <= click["click_time"]
        and (click["click_time"], click_id) <= last
    )[-_LIMIT:]
    if converting_place not in found:
        found = sorted([*(found[-_LIMIT + 1 :] if visitor else found), converting_place])
    return tuple(click_id for _, click_id in found)
