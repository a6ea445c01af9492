"""Several reports of one id meet: which stands, which is a duplicate, superseded, in conflict or not allowed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stream.core.events import (
    Click,
    Conversion,
    click_rank,
    conversion_rank,
    is_rekeyed_click,
    is_rekeyed_conversion,
)


@dataclass(slots=True)
class SettledClicks:
    """`winners` are all accepted ids with the row that stands now; `changed` the stored rows replaced by a winner."""

    winners: dict[int, Click] = field(default_factory=dict)
    stored: Mapping[int, Click] = field(default_factory=dict)  # those of them that were stored before
    changed: list[tuple[Click, Click]] = field(default_factory=list)
    rekeyed: list[int] = field(default_factory=list)  # indexes of the reports that were refused
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class SettledConversions:
    """`winners` are all accepted ids with the report that stands now, whether it is the chunk's or the stored one."""

    winners: dict[int, Conversion] = field(default_factory=dict)
    rekeyed: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Group(NamedTuple):
    """Conversions that report one payment; the transaction is not empty."""

    click_id: int
    transaction_id: str


def settle_clicks(clicks: Sequence[Click], stored: Mapping[int, Click]) -> SettledClicks:
    """Raises nothing. The first report of an id that is not stored stands against those that would move it."""
    winners = {click.click_id: click for click in clicks}
    if len(winners) == len(clicks) and not stored:
        return SettledClicks(winners, counts=Counter({"clicks.new": len(clicks)}))
    settled = SettledClicks(stored=stored)
    winners = settled.winners
    for index, click in enumerate(clicks):
        standing = winners.get(click.click_id) or stored.get(click.click_id)
        if standing is None:
            winners[click.click_id] = click
            settled.counts["clicks.new"] += 1
            continue
        if is_rekeyed_click(standing, click):
            settled.rekeyed.append(index)
            continue
        if click == standing:
            winners[click.click_id] = standing
            settled.counts["clicks.duplicate"] += 1
            continue
        winners[click.click_id] = max(standing, click, key=click_rank)
        at_one_revision = click_rank(click)[:2] == click_rank(standing)[:2]
        settled.counts["clicks." + _kind(winners[click.click_id] is click, at_one_revision)] += 1
    settled.changed = [
        (stored[click_id], winner)
        for click_id, winner in winners.items()
        if click_id in stored and stored[click_id] != winner
    ]
    return settled


def settle_conversions(conversions: Sequence[Conversion], stored: Mapping[int, Conversion]) -> SettledConversions:
    """Raises nothing. The first report of an id that is not stored stands against those that would move it."""
    settled = SettledConversions()
    winners = settled.winners
    for index, conversion in enumerate(conversions):
        standing = winners.get(conversion.conv_id) or stored.get(conversion.conv_id)
        if standing is None:
            winners[conversion.conv_id] = conversion
            settled.counts["conversions.new"] += 1
            continue
        if conversion == standing:
            winners[conversion.conv_id] = standing
            settled.counts["conversions.duplicate"] += 1
            continue
        if is_rekeyed_conversion(standing, conversion):
            settled.rekeyed.append(index)
            continue
        winner = max(standing, conversion, key=conversion_rank)
        winners[conversion.conv_id] = winner
        at_one_revision = conversion_rank(conversion)[:2] == conversion_rank(standing)[:2]
        settled.counts["conversions." + _kind(winner is conversion, at_one_revision)] += 1
    return settled


def _kind(wins: bool, at_one_revision: bool) -> str:  # noqa: FBT001
    if at_one_revision:
        return "conflict"
    return "revised" if wins else "superseded"


def counting(group: Iterable[Conversion]) -> Conversion | None:
    """The one conversion of a group that counts: of those not deleted the earliest, the smaller id between equals."""
    live = [conversion for conversion in group if not conversion.deleted]
    if len(live) < 2:
        return live[0] if live else None
    return min(live, key=lambda conversion: (conversion.conv_time, conversion.conv_id))
