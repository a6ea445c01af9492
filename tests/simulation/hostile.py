"""What chance alone hardly brings: records that come in a plot. A seed has a few plots, in draws of their own.

They stand behind the other events of the seed, with ids that nobody else has, so that they change none of these.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stream.core.keys import partition_of
from tests.support.traffic import DAY, Fields, Sent, as_bytes, record_key

HOUR = 3600
_FIRST_ID = 6_000_000
_CROWD = 56  # clicks of one key: more than a state keeps


class Setting(NamedTuple):
    """What the plots of a seed must fit into. `now`: unix seconds when the seed begins; `span`: how long it sends."""

    partitions: int
    users: int
    now: int
    span: float
    is_sql: bool


class Planned(NamedTuple):
    """`at`: seconds after the beginning."""

    at: float
    sent: Sent


def hostile(chance: random.Random, setting: Setting) -> list[Planned]:
    """Some of the plots, each with its records in the order of their ids, not of their times."""
    plots = _Plots(chance, setting)
    chosen = chance.sample([plots.there_and_back, plots.refunded, plots.ahead], 2)
    if setting.partitions > 1 and not setting.is_sql:
        chosen += [plots.crossing] * chance.choice((0, 1, 1, 2))
    if not setting.is_sql and chance.random() < 0.2:
        chosen.append(plots.crowd)
    return [planned for plot in chosen for planned in plot()]


class _Plots:
    def __init__(self, chance: random.Random, setting: Setting) -> None:
        self._chance = chance
        self._setting = setting
        self._last = _FIRST_ID

    def there_and_back(self) -> Iterator[Planned]:
        """A conversion moves to another hour, and back; perhaps once more. In its order, or all mixed up."""
        click, conversion = self._journey(self._past())
        first = conversion["conv_time"]
        times = [first, first + self._chance.choice((HOUR, -HOUR, 5 * HOUR, DAY)), first]
        if self._chance.random() < 0.3:
            times += [times[1], first + self._chance.choice((1, HOUR))]
        changes: list[Fields] = [{"conv_time": time} for time in times]
        if self._chance.random() < 0.5:
            changes[1]["click_payout"] = 3.5  # what went there is not what comes back
        yield self._planned("clicks", click, "moved: its click", self._moment())
        yield from self._revisions(conversion, changes, "moved")

    def refunded(self) -> Iterator[Planned]:
        """By a deletion or a payout below nothing, that comes before the conversion itself, or after it."""
        click, conversion = self._journey(self._past())
        refund: Fields = self._chance.choice(
            ({"deleted": 1}, {"deleted": 1}, {"click_payout": -conversion["click_payout"]})
        )
        changes: list[Fields] = [{}, refund]
        if self._chance.random() < 0.3:
            changes.append({"deleted": 0})
        yield self._planned("clicks", click, "refunded: its click", self._moment())
        yield from self._revisions(conversion, changes, "refunded")

    def ahead(self) -> Iterator[Planned]:
        """The clock of a tracking server runs ahead, by minutes or days: the append time is the earlier one."""
        ahead = self._chance.choice((120, 1800, 2 * HOUR, DAY, 6 * DAY, 29 * DAY))
        for _ in range(self._chance.choice((1, 2))):
            click, conversion = self._journey(self._setting.now + ahead + self._chance.randrange(120))
            other = click | {"click_id": self._next(), "click_time": click["click_time"] - self._chance.choice((0, 60))}
            yield self._planned("clicks", click, "ahead", self._moment())
            yield self._planned("clicks", other, "ahead", self._moment())
            yield self._planned("conversions", conversion, "ahead", self._moment())

    def crossing(self) -> Iterator[Planned]:
        """Two partitions come to the same payments in the same moment, in opposite orders: each may wait for the other.

        They come to one click as well, reported with campaign 0 to the one and with a campaign to the other.
        """
        user = self._chance.randint(1, self._setting.users)
        here = user * 100 + 1
        there = next(
            campaign
            for campaign in range(here + 1, here + 99)
            if self._place(user, campaign) != self._place(user, here)
        )
        time, at, ends = self._past(), self._moment(), self._setting.span
        clicks = [self._click(user, here, time + number) for number in range(3)]
        yield self._planned("clicks", clicks[0] | {"campaign_id": 0}, "crossing", at)
        for click in clicks:
            yield self._planned("clicks", click, "crossing", at)
        at = at + self._chance.random() * (ends - at)
        for campaign, places in ((here, (0, 1, 2)), (there, (2, 1, 0))):
            for place in places:
                conversion = self._conversion(clicks[place], time + HOUR)
                conversion |= {"campaign_id": campaign, "transaction_id": f"crossing {clicks[place]['click_id']}"}
                yield self._planned("conversions", conversion, "crossing", at)

    def crowd(self) -> Iterator[Planned]:
        """More clicks of one key than a state keeps; then conversions, and last of all clicks, from before these."""
        user, begin = 1, self._past()
        campaign = user * 100 + 50
        until = self._setting.span * 0.6
        clicks = [self._click(user, campaign, begin + number * 60) for number in range(_CROWD)]
        for number, click in enumerate(clicks):
            yield self._planned("clicks", click, "crowd", until * number / _CROWD)
        for place in (self._chance.randrange(2, 6), self._chance.randrange(8, 30)):  # before what is kept, and within
            conversion = self._conversion(clicks[place], clicks[place]["click_time"] + 1)
            at = until + self._chance.random() * until / 3
            yield self._planned("conversions", conversion, "crowd", at)
            late = self._click(user, campaign, conversion["conv_time"] - self._chance.choice((0, 1, 30, 90)))
            yield self._planned("clicks", late, "crowd", at + self._chance.random() * until / 3)

    # What plots are made of

    def _revisions(self, conversion: Fields, changes: Sequence[Fields], kind: str) -> Iterator[Planned]:
        """The first change is the first report, and has no revision."""
        reports, fields = [], dict(conversion)
        for number, change in enumerate(changes):
            fields = fields | change | ({"revised_at": conversion["conv_time"] + number} if number else {})
            reports.append(fields)
        moments = [self._moment() for _ in reports]
        if self._chance.random() < 0.6:
            moments.sort()
        for fields, at in zip(reports, moments, strict=True):
            yield self._planned("conversions", fields, kind, at)

    def _journey(self, time: int) -> tuple[Fields, Fields]:
        user = self._chance.randint(1, self._setting.users)
        click = self._click(user, user * 100 + self._chance.randint(1, 3), time)
        return click, self._conversion(click, time + self._chance.choice((0, 60, HOUR)))

    def _click(self, user: int, campaign: int, time: int) -> Fields:
        click: Fields = {"click_id": self._next(), "user_id": user, "campaign_id": campaign, "click_time": time}
        return click | self._chance.choice(({}, {"click_cpc": 0.25}, {"landing_page_id": 4}))

    def _conversion(self, click: Fields, time: int) -> Fields:
        names = ("click_id", "user_id", "campaign_id", "click_time")
        return {name: click[name] for name in names} | {
            "conv_id": self._next(),
            "conv_time": time,
            "click_payout": self._chance.choice((10, 33.33333)),
        }

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _past(self) -> int:
        return self._setting.now - HOUR - self._chance.randrange(2 * DAY)

    def _moment(self) -> float:
        return self._chance.random() * self._setting.span

    def _place(self, user: int, campaign: int) -> int:
        return partition_of(user, campaign, self._setting.partitions)

    @staticmethod
    def _planned(topic: str, fields: Fields, kind: str, at: float) -> Planned:
        return Planned(at, Sent(topic, as_bytes(fields), record_key(fields), kind))
