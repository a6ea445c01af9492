"""The events that all contestants read: 95 % clicks, 5 % conversions, slightly out of order, 1 % sent twice. Seeded."""

import random
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import NamedTuple

DAY = 86_400
SPAN_DAYS = 20  # less than the lookback: every earlier click of a key can be a touch
LOOKBACK = 30 * DAY
MOST_TOUCHES = 25

CAMPAIGNS_OF_A_USER = 100
VISITORS_OF_A_KEY = 2

CONVERSIONS = 0.05
NAME_VISITOR = 0.3
TWICE = 0.01
VERY_LATE = 0.02


class Event(NamedTuple):
    """A line of the log."""

    is_click: bool
    user_id: int
    campaign_id: int
    value: bytes


class Moment(NamedTuple):
    """Where a click stands among others."""

    click_time: int
    click_id: int


class Expected(NamedTuple):
    """What our tables must hold afterwards: counts, and sums that any wrong touch would change."""

    clicks: int
    conversions: int
    touchpoints: int
    click_ids: int
    positions: int
    cents: int  # paid for all conversions


class _Click(NamedTuple):
    moment: Moment
    key: int
    visitor: int  # 0: none is named


class Traffic:
    """Iterate once; `expected` is known afterwards."""

    def __init__(self, events: int, *, keys: int, now: int, seed: int = 1) -> None:
        self._events = events
        self._keys = keys
        self._now = now
        self._random = random.Random(seed)
        self._recent: deque[_Click] = deque(maxlen=5000)
        self._lines: deque[Event] = deque(maxlen=1000)
        self._clicks: dict[tuple[int, int], list[Moment]] = defaultdict(list)
        self._conversions: list[tuple[int, _Click]] = []  # time, converting click
        self._click_count = 0

    def __iter__(self) -> Iterator[Event]:
        chance = self._random.random
        start = self._now - SPAN_DAYS * DAY
        step = SPAN_DAYS * DAY / self._events
        for index in range(self._events):
            if self._lines and chance() < TWICE:
                yield self._random.choice(self._lines)
                continue
            most_late = 3600 if chance() < VERY_LATE else 30
            happened_at = start + int(index * step - chance() * most_late)
            is_conversion = self._recent and chance() < CONVERSIONS
            event = self._conversion(happened_at) if is_conversion else self._click(happened_at)
            self._lines.append(event)
            yield event

    def _click(self, click_time: int) -> Event:
        self._click_count += 1
        key = int(self._random.random() * self._keys)
        visitor = 0
        if self._random.random() < NAME_VISITOR:
            visitor = 1 + int(self._random.random() * VISITORS_OF_A_KEY)
        click = _Click(Moment(click_time, self._click_count), key, visitor)
        self._clicks[key, visitor].append(click.moment)
        self._recent.append(click)
        user_id, campaign_id = _names(key)
        named = b',"visitor_id":"v%d-%d"' % (key, visitor) if visitor else b""
        line = b'{"click_id":%d,"user_id":%d,"campaign_id":%d,"click_time":%d,"click_cpc":0.%02d' % (
            click.moment.click_id, user_id, campaign_id, click_time, key % 90 + 10,
        )  # fmt: skip
        line += b',"ppc_account_id":%d,"landing_page_id":%d%b}' % (key % 50 + 1, key % 300 + 1, named)
        return Event(True, user_id, campaign_id, line)  # noqa: FBT003 - a field of the tuple

    def _conversion(self, happened_at: int) -> Event:
        click = self._random.choice(self._recent)
        conv_time = max(happened_at, click.moment.click_time + 1)
        self._conversions.append((conv_time, click))
        conv_id = len(self._conversions)
        user_id, campaign_id = _names(click.key)
        # Half of the postbacks know their click alone; half of them name a transaction.
        knows_visitor = click.visitor and self._random.random() < 0.5
        more = b',"visitor_id":"v%d-%d"' % (click.key, click.visitor) if knows_visitor else b""
        if self._random.random() < 0.5:
            more += b',"transaction_id":"t%d"' % conv_id
        line = b'{"conv_id":%d,"click_id":%d,"user_id":%d,"campaign_id":%d,"click_time":%d,"conv_time":%d' % (
            conv_id, click.moment.click_id, user_id, campaign_id, click.moment.click_time, conv_time,
        )  # fmt: skip
        line += b',"click_payout":%d.%02d%b}' % (*divmod(_cents(conv_id), 100), more)
        return Event(False, user_id, campaign_id, line)  # noqa: FBT003 - a field of the tuple

    def users(self) -> range:
        return range(1, 2 + (self._keys - 1) // CAMPAIGNS_OF_A_USER)

    def expected(self) -> Expected:
        """From the whole traffic at once: the rules of journeys in their plainest words, no code of ours."""
        for moments in self._clicks.values():
            moments.sort()
        touchpoints = click_ids = positions = cents = 0
        for conv_id, (conv_time, click) in enumerate(self._conversions, start=1):
            cents += _cents(conv_id)
            touches = self._touches(conv_time, click)
            touchpoints += len(touches)
            click_ids += sum(touch.click_id for touch in touches)
            positions += sum(range(len(touches)))
        return Expected(self._click_count, len(self._conversions), touchpoints, click_ids, positions, cents)

    def _touches(self, conv_time: int, click: _Click) -> list[Moment]:
        moments = self._clicks[click.key, click.visitor]
        since = bisect_left(moments, Moment(conv_time - LOOKBACK, 0))
        if click.visitor:
            before = moments[since : bisect_left(moments, click.moment)]
            return [*before[-(MOST_TOUCHES - 1) :], click.moment]
        until = bisect_right(moments, conv_time, key=lambda moment: moment.click_time)
        return sorted({*moments[since:until][-MOST_TOUCHES:], click.moment})


def _cents(conv_id: int) -> int:
    return 100 * (conv_id % 100) + 50


def _names(key: int) -> tuple[int, int]:
    return 1 + key // CAMPAIGNS_OF_A_USER, 1 + key
