"""What a committed chunk looks for once more, so that no two partitions miss each other's news.

A conversion and its click may lie in different partitions and be stored at the same moment, each without having seen
the other. Both look again after their commit; the later of the two commits is seen by its own second look at the
latest. What is found is sent on as its stored event, and computed by its own partition.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from stream.core.events import Conversion
from stream.core.facts import Facts, Journey, Needs, Outcome
from stream.core.folding import Folded, Place
from stream.core.settle import Group, counting


class SentOn(NamedTuple):
    """A stored conversion that its own partition has to compute again, and what for."""

    conversion: Conversion
    cause: str  # 'click' or 'transaction'


def second_look_needs(place: Place, folded: Folded) -> Needs | None:
    """None where there is nobody to miss: of a single partition, or of a chunk without accepted events."""
    if place.partitions == 1:
        return None
    # Also of conversions without a transaction: they may have had one, and left a sibling that counts now.
    grouped = {journey.conversion.click_id for journey in folded.journeys}
    named = folded.clicks | grouped
    return Needs(conversions_of_clicks=named, clicks=frozenset(folded.borrowed_clicks)) if named else None


def found_at_second_look(place: Place, folded: Folded, facts: Facts) -> Sequence[SentOn]:
    """Ascending by conv_id; empty almost always."""
    counted = _counting(facts.journeys.values())
    found: list[SentOn] = []
    for conv_id, journey in sorted(facts.journeys.items()):
        conversion = journey.conversion
        if conversion.click_id in folded.clicks and not place.owns(conversion):
            found.append(SentOn(conversion, "click"))
        elif (journey.outcome is Outcome.COUNTED) != (conv_id in counted) or (
            conv_id in counted and conv_id in folded.displaced
        ):
            found.append(SentOn(conversion, "transaction"))
    found += [
        SentOn(journey.conversion, "click")
        for journey in folded.journeys
        if _is_outdated(journey.conversion.click_id, folded, facts)
    ]
    return found


def counted_elsewhere(place: Place, facts: Facts) -> Sequence[SentOn]:
    """Of all conversions of some clicks, other partitions' that count for a payment.

    Where a try before this one has removed the log row of one that came to count meanwhile, and was lost before it told
    of that, nobody can see it any more: each of them is to be computed once more then.
    """
    counted = _counting(facts.journeys.values())
    return [
        SentOn(journey.conversion, "transaction")
        for conv_id, journey in sorted(facts.journeys.items())
        if conv_id in counted and journey.conversion.transaction_id and not place.owns(journey.conversion)
    ]


def at_odds(journeys: Collection[Journey]) -> list[Conversion]:
    """Of all conversions of some clicks, those of which their journeys say wrongly whether they count."""
    counted = _counting(journeys)
    return [
        journey.conversion
        for journey in journeys
        if (journey.outcome is Outcome.COUNTED) != (journey.conversion.conv_id in counted)
    ]


def _counting(journeys: Collection[Journey]) -> set[int]:
    """Of all conversions of some clicks, those that count."""
    counted: set[int] = set()
    groups: dict[Group, list[Conversion]] = {}
    for journey in journeys:
        conversion = journey.conversion
        if conversion.transaction_id:
            groups.setdefault(Group(conversion.click_id, conversion.transaction_id), []).append(conversion)
        elif not conversion.deleted:
            counted.add(conversion.conv_id)
    counted.update(winner.conv_id for group in groups.values() if (winner := counting(group)) is not None)
    return counted


def _is_outdated(click_id: int, folded: Folded, facts: Facts) -> bool:
    """True if another partition stored or changed the click after this chunk had read it."""
    return click_id in folded.borrowed_clicks and facts.clicks.get(click_id) != folded.borrowed_clicks[click_id]
