"""How far has a run come? What its places say, of a partition each, as they stand in SQL."""

from collections.abc import Mapping, Sequence

from stream.replay.log_range import LogRange
from tables.sql.replays import InKeyOrder

RECORDS, CONVERSIONS = "refused_records", "refused_conversions"  # in a place


def records_left(ranges: Sequence[LogRange], places: Mapping[int, Mapping[str, object]]) -> int:
    """Of these ranges, those refused before included."""
    left = 0
    for part in ranges:
        place = places.get(part.partition, {})
        rest = LogRange(part.partition, later(part.starts, offsets_of(place.get("offsets"))), part.ends)
        left += rest.records + len(pairs_of(place.get(RECORDS)))
    return left


def conversions_done(places: Mapping[int, Mapping[str, object]]) -> int:
    """But for those that are to be tried again."""
    return sum(
        int(str(place.get("conversions", 0))) - len(ids_of(place.get(CONVERSIONS)))
        for place in places.values()
        if place.get("after") or place.get("phase") == "done"  # else it begins anew
    )


def offsets_of(noted: object) -> dict[str, int]:
    return {str(topic): int(offset) for topic, offset in noted.items()} if isinstance(noted, dict) else {}


def ahead_of(noted: Mapping[str, object]) -> dict[str, object]:
    """What the next round had done already. It stands where all records that have come since tell of nothing new, as
    those do that another partition's facts have sent on."""
    phase = noted.get("next") if noted.get("phase") == "facts" else noted.get("phase")
    if phase != "done" and "after" not in noted:
        return {}
    names = ("after", "conversions", CONVERSIONS)
    return {"next": phase, **{name: noted[name] for name in names if name in noted}}


def pairs_of(noted: object) -> Sequence[tuple[str, int]]:
    return [(str(name), int(number)) for name, number in noted] if isinstance(noted, list) else []


def ids_of(noted: object) -> Sequence[tuple[int, int]]:
    return [(int(one), int(other)) for one, other in noted] if isinstance(noted, list) else []


def later(offsets: Mapping[str, int], others: Mapping[str, int]) -> dict[str, int]:
    """Of each topic the later one."""
    return {topic: max(offset, others.get(topic, offset)) for topic, offset in offsets.items()}


def key_order(noted: object) -> InKeyOrder | None:
    return InKeyOrder._make(noted) if isinstance(noted, list) else None
