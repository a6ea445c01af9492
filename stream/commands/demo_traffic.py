"""Sample traffic for the demo: what is sent, in which order, and what is true in the end. Knows no broker.

Half of it is told: six small stories that a person can check by eye. The rest is bulk around them, from a fixed seed.
Later reports of one id are made here, so their maker also knows which report of each id stands in the end.
"""

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stream.core.keys import partition_of, record_key
from stream.topics import CLICKS, CONVERSIONS
from stream.wire.reasons import Reason

Fields = dict[str, Any]

MINUTE, HOUR, DAY = 60, 3600, 86_400
PARTITIONS = 4
# What 202_ppc_networks and 202_ppc_accounts would hold in an installation: one account in each network.
SOURCES = {1: "search ad", 2: "video ad", 3: "newsletter", 4: "review site", 5: "link farm"}

STORIES_USER = 9
USERS = (1, 2, 3, STORIES_USER)

_BULK_CLICKS = 2700
_BULK_CONVERSIONS = 390
_BULK_DAYS = 20
_SEED = 202


class Sample(NamedTuple):
    """A record to send. `partition` None: where its key belongs."""

    topic: str
    key: bytes | None
    value: bytes | None
    kind: str
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """Conversions worth looking at, and what there is to see."""

    conv_ids: tuple[int, ...]
    title: str
    moral: str


@dataclass(slots=True)
class Traffic:
    """Three waves, and the facts that stand after the last one."""

    waves: tuple[list[Sample], list[Sample], list[Sample]] = field(default_factory=lambda: ([], [], []))
    clicks: dict[int, Fields] = field(default_factory=dict)
    conversions: dict[int, Fields] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)  # by reason
    stories: list[Story] = field(default_factory=list)

    def samples(self) -> list[Sample]:
        return [sample for wave in self.waves for sample in wave]


def make_traffic(now: int) -> Traffic:
    """The same for the same `now`, in unix seconds; no good event lies after it."""
    maker = _Maker(now)
    maker.bulk()
    maker.three_clicks()
    maker.early_conversion()
    maker.bot()
    maker.refund()
    maker.paid_twice()
    maker.click_moved()
    maker.in_order_of_time()
    maker.later()
    maker.again()
    maker.broken()
    return maker.traffic


class _Maker:
    def __init__(self, now: int) -> None:
        self.now = now
        self.chance = random.Random(_SEED)  # noqa: S311 - sample data
        self.traffic = Traffic()
        self._next_click = 10_000
        self._next_conversion = 100

    # Sending

    def report(self, wave: int, topic: str, fields: Fields, kind: str) -> None:
        """One more report of a click or a conversion; the last one made is the one that stands."""
        standing = self.traffic.clicks if topic == CLICKS else self.traffic.conversions
        standing[fields["click_id" if topic == CLICKS else "conv_id"]] = fields
        self.traffic.waves[wave].append(_sample(topic, fields, kind))

    def click(self, click_id: int, campaign: int, at: int, *, source: int = 0, **more: object) -> Fields:
        named = {"ppc_account_id": source, "ppc_network_id": source} if source else {}
        return {
            "click_id": click_id,
            "user_id": STORIES_USER,
            "campaign_id": campaign,
            "click_time": at,
            **named,
            **more,
        }

    def conversion(self, conv_id: int, click: Fields, at: int, payout: float, **more: object) -> Fields:
        named = {name: click[name] for name in ("click_id", "user_id", "campaign_id", "click_time")}
        return {"conv_id": conv_id, **named, "conv_time": at, "click_payout": payout, **more}

    def in_order_of_time(self) -> None:
        """The first wave is sent as things happened."""
        self.traffic.waves[0].sort(key=_happened_at)

    # Told stories

    def three_clicks(self) -> None:
        at = self.now - 2 * HOUR
        for number, (source, before) in enumerate([(1, 9 * DAY), (3, 2 * DAY), (4, 3 * HOUR)], start=1):
            visit = self.click(number, 901, at - before, visitor_id="ann", source=source, click_cpc=0.25)
            self.report(0, CLICKS, visit, "as it happened")
        self.report(0, CONVERSIONS, self.conversion(1, visit, at, 49), "as it happened")
        self.traffic.stories.append(
            Story((1,), "The postback knows only the click", "No visitor in it: Ann was found by her last click.")
        )

    def early_conversion(self) -> None:
        at = self.now - 5 * HOUR
        first = self.click(11, 902, at - 4 * DAY, visitor_id="ben", source=2)
        converting = self.click(12, 902, at - 20 * MINUTE, visitor_id="ben", source=3)
        self.report(0, CLICKS, first, "as it happened")
        self.report(0, CONVERSIONS, self.conversion(2, converting, at, 20), "ahead of its click")
        self.report(1, CLICKS, converting, "late")
        self.traffic.stories.append(
            Story((2,), "The conversion comes before its click", "The click came late, and with it Ben's journey.")
        )

    def bot(self) -> None:
        at = self.now - 26 * HOUR
        visits = [
            self.click(number, 903, at - before, visitor_id="cora", source=source)
            for number, source, before in [(21, 1, 6 * DAY), (22, 5, 26 * HOUR), (23, 3, 40 * MINUTE)]
        ]
        for visit in visits:
            self.report(0, CLICKS, visit, "as it happened")
        self.report(0, CONVERSIONS, self.conversion(3, visits[-1], at, 30), "as it happened")
        self.report(2, CLICKS, visits[1] | {"click_bot": True, "revised_at": self.now}, "revised")
        self.traffic.stories.append(
            Story((3,), "A click turns out to be a bot's", "The click was revised, so the journey was written anew.")
        )

    def refund(self) -> None:
        at = self.now - 3 * DAY
        visits = [
            self.click(number, 904, at - before, visitor_id="dan", source=source)
            for number, source, before in [(31, 2, 8 * DAY), (32, 4, 2 * HOUR)]
        ]
        for visit in visits:
            self.report(0, CLICKS, visit, "as it happened")
        paid = self.conversion(4, visits[-1], at, 80)
        self.report(0, CONVERSIONS, paid, "as it happened")
        self.report(2, CONVERSIONS, paid | {"deleted": True, "revised_at": self.now}, "deleted")
        self.traffic.stories.append(
            Story((4,), "The money goes back", "Deleted: it keeps its row, has no touchpoints and earns nothing.")
        )

    def paid_twice(self) -> None:
        at = self.now - 7 * HOUR
        visit = self.click(41, 905, at - HOUR, visitor_id="eve", source=1)
        self.report(0, CLICKS, visit, "as it happened")
        self.report(0, CONVERSIONS, self.conversion(5, visit, at, 35, transaction_id="order-7"), "as it happened")
        again = self.conversion(6, visit, at + 9 * MINUTE, 35, transaction_id="order-7")
        self.report(2, CONVERSIONS, again, "paid twice")
        self.traffic.stories.append(
            Story((5, 6), "One order, reported twice", "Same click and same order: the earlier report counts.")
        )

    def click_moved(self) -> None:
        """For the metrics more than for the eye: a click whose time was wrong leaves one journey and enters another."""
        at = self.now - 10 * DAY
        visits = [
            self.click(number, 906, at - before, visitor_id="fay", source=source)
            for number, source, before in [(51, 2, 40 * DAY), (52, 3, HOUR)]
        ]
        for visit in visits:
            self.report(0, CLICKS, visit, "as it happened")
        self.report(0, CONVERSIONS, self.conversion(7, visits[-1], at, 15.5), "as it happened")
        right = visits[0] | {"click_time": at - 4 * DAY, "revised_at": self.now}
        self.report(2, CLICKS, right, "revised")
        self.traffic.stories.append(
            Story(
                (7,),
                "A click's clock was wrong",
                "At first 40 days old, too old; revised, it is in the lookback.",
            )
        )

    # Bulk

    def bulk(self) -> None:
        chance = self.chance
        for _ in range(_BULK_CLICKS):
            click = self._bulk_click()
            if chance.random() < 0.06:
                self.report(1, CLICKS, click, "late")
            else:
                self.report(0, CLICKS, click, "as it happened")
        clicks = sorted(self.traffic.clicks.values(), key=lambda click: click["click_id"])
        for click in chance.sample(clicks, _BULK_CONVERSIONS):
            conversion = self._bulk_conversion(click)
            self.report(0, CONVERSIONS, conversion, "as it happened")
        for click in chance.sample(clicks, 3):
            never_seen = {**click, "click_id": click["click_id"] + 1_000_000}
            self.report(0, CONVERSIONS, self._bulk_conversion(never_seen), "without their click")

    def _bulk_click(self) -> Fields:
        chance = self.chance
        self._next_click += 1
        user = chance.randint(1, 3)
        campaign = user * 100 + chance.randint(1, 4)
        at = self.now - 3 * HOUR - chance.randrange(_BULK_DAYS * DAY)
        source = chance.randint(1, 4)
        click: Fields = {
            "click_id": self._next_click,
            "user_id": user,
            "campaign_id": campaign,
            "click_time": at,
            "ppc_account_id": source,
            "ppc_network_id": source,
            "click_cpc": chance.choice([0.05, 0.1, 0.25, 0.61565]),
        }
        if chance.random() < 0.55:
            click["visitor_id"] = f"v-{chance.randint(1, 60):04}"
        if chance.random() < 0.04:
            click["click_bot"] = True
        return click

    def _bulk_conversion(self, click: Fields) -> Fields:
        chance = self.chance
        self._next_conversion += 1
        at = min(click["click_time"] + chance.randrange(MINUTE, DAY), self.now - MINUTE)
        conversion = self.conversion(self._next_conversion, click, at, chance.choice([9.99, 20, 35.5, 120]))
        if chance.random() < 0.4:
            conversion["transaction_id"] = f"order-{self._next_conversion}"
        return conversion

    # What comes afterwards

    def later(self) -> None:
        """Revisions, deletions, refunds, payments told twice, and records on a wrong partition."""
        chance = self.chance
        clicks = [click for click in self.traffic.clicks.values() if click["click_id"] > 10_000]
        for number, click in enumerate(chance.sample(clicks, 60)):
            news: Fields = {"click_bot": True} if number % 3 == 0 else {"click_cpc": 0.4}
            self.report(2, CLICKS, click | news | {"revised_at": self.now}, "revised")
        bulk = [paid for paid in self.traffic.conversions.values() if paid["conv_id"] > 100]
        chosen = chance.sample(bulk, 45)
        for paid in chosen[:15]:
            self.report(2, CONVERSIONS, paid | {"click_payout": 42.5, "revised_at": self.now}, "revised")
        for paid in chosen[15:27]:
            self.report(2, CONVERSIONS, paid | {"deleted": True, "revised_at": self.now}, "deleted")
        for paid in chosen[27:35]:
            self._next_conversion += 1
            back = {"conv_id": self._next_conversion, "click_payout": -paid["click_payout"], "transaction_id": ""}
            self.report(2, CONVERSIONS, paid | back | {"conv_time": self.now - 30}, "refund")
        for paid in [each for each in chosen[35:] if each.get("transaction_id")]:
            self._next_conversion += 1
            twice = {"conv_id": self._next_conversion, "conv_time": paid["conv_time"] + 20}
            self.report(2, CONVERSIONS, paid | twice, "paid twice")
        for _ in range(12):
            self._misrouted(self._bulk_click())

    def _misrouted(self, click: Fields) -> None:
        self.report(2, CLICKS, click, "on a wrong partition")
        right = partition_of(click["user_id"], click["campaign_id"], PARTITIONS)
        self.traffic.waves[2][-1] = self.traffic.waves[2][-1]._replace(partition=(right + 1) % PARTITIONS)

    def again(self) -> None:
        """The same bytes once more, as at-least-once senders do."""
        first = [sample for sample in self.traffic.waves[0] if sample.kind == "as it happened"]
        for sample in self.chance.sample(first, 80):
            self.traffic.waves[1].append(sample._replace(kind="the same again"))

    def broken(self) -> None:
        good = self.click(10_001, 901, self.now - HOUR)
        paid = self.conversion(9001, good, self.now - MINUTE, 10)
        for reason, topic, value in [
            (Reason.UNREADABLE_JSON, CLICKS, b'{"click_id": 77, "user_id'),
            (Reason.UNREADABLE_JSON, CONVERSIONS, b"<html>502 Bad Gateway</html>"),
            (Reason.NOT_AN_OBJECT, CLICKS, b"[1, 2, 3]"),
            (Reason.MISSING_FIELD, CLICKS, _json({"click_id": 78, "user_id": 9, "campaign_id": 901})),
            (Reason.MISSING_FIELD, CONVERSIONS, _json({"conv_id": 9001, "click_id": 1, "user_id": 9})),
            (Reason.WRONG_TYPE, CLICKS, _json(good | {"click_time": "yesterday"})),
            (Reason.OUT_OF_RANGE, CONVERSIONS, _json(paid | {"click_id": -5})),
            (Reason.TOO_MANY_DECIMALS, CONVERSIONS, _json(paid | {"click_payout": 10.123456})),
            (Reason.EVENT_TIME_AHEAD, CLICKS, _json(good | {"click_time": self.now + 400 * DAY})),
            (Reason.REKEYED, CLICKS, _json(good)),  # click 10001 is known, and of another user
            (Reason.NO_VALUE, CLICKS, None),
        ]:
            self.traffic.refused[reason] += 1
            self.traffic.waves[2].append(Sample(topic, record_key(9, 901), value, "broken"))


def _sample(topic: str, fields: Fields, kind: str) -> Sample:
    return Sample(topic, record_key(fields["user_id"], fields["campaign_id"]), _json(fields), kind)


def _json(fields: Fields) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _happened_at(sample: Sample) -> int:
    assert sample.value is not None, "only good events are sorted"
    fields: dict[str, int] = json.loads(sample.value)
    return fields.get("conv_time") or fields["click_time"]
