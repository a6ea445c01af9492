"""Mixed traffic as tracking servers really send it: late, doubled, revised, contradictory, broken. A seed decides all.

No two contents of one id share a `revised_at` (unless one is a deletion, or brings the campaign), because there only a
digest decides, which the oracle does not know. Rekeyed ids are off unless asked for: there arrival decides.
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.support.oracle_events import Record

DAY = 86400
Fields = dict[str, Any]


class Sent(NamedTuple):
    """A record as it is sent. `kind` names what is special about it, for the tests of this module."""

    topic: str
    value: bytes | None
    key: bytes | None
    kind: str


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares between 0 and 1; 0 switches the thing off."""

    conversions: float = 0.15  # of all events
    hot_key: float = 0.3  # clicks in one campaign of one user, and half of these by one visitor
    equal_times: float = 0.3  # clicks whose time falls on a whole quarter of an hour
    visitors: float = 0.5  # clicks that name their visitor
    bots: float = 0.1
    late: float = 0.1  # reports that come up to three days after their time
    doubled: float = 0.05  # the same bytes again, some time later
    doubled_otherwise: float = 0.05  # the same content in other bytes
    revised_clicks: float = 0.1
    campaign_later: float = 0.05  # clicks first reported with campaign 0
    revised_conversions: float = 0.15
    deleted: float = 0.1  # conversions; a third of them comes back
    refunds: float = 0.05
    unknown_click: float = 0.05
    other_campaign: float = 0.1  # conversions whose click lies in another campaign
    same_transaction: float = 0.15  # conversions that report an earlier one's transaction again
    knows_click_only: float = 0.6  # conversions without a visitor of their own
    broken: float = 0.03  # of all events
    wrong_key: float = 0.02  # records with another key than their content says
    rekeyed: float = 0.0


NO_FAULTS = Rates(
    late=0, doubled=0, doubled_otherwise=0, revised_clicks=0, campaign_later=0, revised_conversions=0, deleted=0,
    refunds=0, unknown_click=0, other_campaign=0, same_transaction=0, broken=0, wrong_key=0,
)  # fmt: skip


def traffic(
    seed: int, events: int, *, now: int, rates: Rates | None = None, days: int = 40, users: int = 3, campaigns: int = 4
) -> list[Sent]:
    """Exactly `events` records in the order they are sent. No event time is after `now` (unix seconds), those of broken
    records aside; clicks begin `days` earlier."""
    generator = _Generator(random.Random(seed), rates or Rates(), now=now, days=days)
    generator.users, generator.campaigns = users, campaigns
    while len(generator.plan) < events:
        generator.next_event()
    plan = generator.plan[:events]
    return [sent for _, _, sent in sorted(plan, key=lambda planned: planned[:2])]


def as_records(sent: Iterable[Sent], append_time: int) -> list[Record]:
    """What the oracle takes, all appended at one time (whole seconds)."""
    return [Record(record.topic, record.value, append_time) for record in sent]


def record_key(fields: Fields) -> bytes:
    return f"{fields['user_id']}:{fields['campaign_id']}".encode()


def as_bytes(fields: Fields) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


class _Generator:
    def __init__(self, chance: random.Random, rates: Rates, *, now: int, days: int) -> None:
        self.chance = chance
        self.rates = rates
        self.now = now
        self.start = now - days * DAY
        self.users = self.campaigns = 1
        self.plan: list[tuple[int, int, Sent]] = []  # (sent at, order of making, what)
        self.clicks: list[Fields] = []  # first reports; the newest content may differ
        self.conversions: list[Fields] = []
        self.next_click_id = 1000
        self.next_conv_id = 1
        # Names that differ only in case or accents are two visitors.
        self.visitors = ["ann", "Ann", "bob", "cora", "d-7f3a", "émile", "emile", "visitor six", "7"]

    def next_event(self) -> None:
        if self.clicks and self.happens(self.rates.broken):
            self.send_broken()
        elif self.clicks and self.happens(self.rates.conversions):
            self.send_conversion()
        else:
            self.send_click()

    def happens(self, share: float) -> bool:
        return self.chance.random() < share

    # Clicks

    def send_click(self) -> None:
        click = self.new_click()
        self.clicks.append(click)
        kind = "bot" if click.get("click_bot") else "click"
        if click["campaign_id"] and self.happens(self.rates.campaign_later):
            # A campaign beats campaign 0 even where the latter was revised later.
            revision = self.chance.choice([{}, {}, {"revised_at": self.now}])
            self.report("clicks", click | {"campaign_id": 0} | revision, "campaign 0")
            kind = "campaign later"
        self.report("clicks", click, kind)
        if self.happens(self.rates.revised_clicks):
            self.revise("clicks", click, self.revised_click)
        if self.happens(self.rates.rekeyed):
            moved = self.chance.choice([{"user_id": click["user_id"] + 1}, {"campaign_id": click["campaign_id"] + 1}])
            self.report("clicks", click | moved, "rekeyed click")

    def new_click(self) -> Fields:
        chance = self.chance
        hot = self.happens(self.rates.hot_key)
        user = 1 if hot else chance.randint(1, self.users)
        campaign = 1 if hot else chance.randint(1, self.campaigns)
        click: Fields = {
            "click_id": self.next_click_id,
            "user_id": user,
            "campaign_id": user * 100 + campaign,
            "click_time": self.some_time(),
        }
        # Ids do not grow with time, nor one by one.
        self.next_click_id += chance.choice([1, 1, 1, 7])
        if self.happens(self.rates.visitors):
            click["visitor_id"] = self.visitors[0] if hot and self.happens(0.5) else chance.choice(self.visitors)
        if self.happens(0.8):
            click["click_cpc"] = chance.choice([0, 1, 0.5, 1.25, 0.61565, 99.99999])
        if self.happens(self.rates.bots):
            click["click_bot"] = chance.choice([1, True])
        if self.happens(0.1):
            click["click_filtered"] = chance.choice([0, 1, True, False])
        for name in ("ppc_account_id", "ppc_network_id", "landing_page_id", "text_ad_id", "aff_network_id"):
            if self.happens(0.4):
                click[name] = chance.randint(0, 9)
        return click

    def revised_click(self, click: Fields) -> Fields:
        chance = self.chance
        changes: Sequence[Fields] = (
            {"click_cpc": chance.choice([0.75, 2, 3.00001])},
            {"click_bot": 0 if click.get("click_bot") else 1},
            {"visitor_id": chance.choice([*self.visitors, ""])},
            {"click_time": self.some_time()},
            {"click_time": max(self.start, click["click_time"] - chance.choice([1, 900, 3600]))},
            {"ppc_account_id": chance.randint(10, 19)},
        )
        return click | chance.choice(changes)

    # Conversions

    def send_conversion(self) -> None:
        conversion = self.new_conversion()
        kind = "refund" if conversion["click_payout"] < 0 else "conversion"
        if self.conversions and self.happens(self.rates.same_transaction):
            conversion, kind = self.same_transaction(conversion), "same transaction"
        self.conversions.append(conversion)
        self.report("conversions", conversion, kind)
        if self.happens(self.rates.deleted):
            self.delete(conversion)
        elif self.happens(self.rates.revised_conversions):
            self.revise("conversions", conversion, self.revised_conversion)
        if self.happens(self.rates.rekeyed):
            other = {"click_id": conversion["click_id"] + 1}
            moved = self.chance.choice([other, {"campaign_id": conversion["campaign_id"] + 1}])
            self.report("conversions", conversion | moved, "rekeyed conversion")

    def new_conversion(self) -> Fields:
        chance = self.chance
        # Mostly of the newer half, so that several conversions of one click happen, and long journeys too.
        click = chance.choice(self.clicks[len(self.clicks) // 2 :])
        delay = chance.choice([0, 1, 60, 3600, 3 * DAY, 30 * DAY, 30 * DAY + 1, -30, chance.randint(0, 10 * DAY)])
        conv_time = min(self.now, click["click_time"] + delay)
        conversion: Fields = {
            "conv_id": self.next_conv_id,
            "click_id": click["click_id"],
            "user_id": click["user_id"],
            "campaign_id": click["campaign_id"],
            # Senders do not always know the time of the click.
            "click_time": click["click_time"] - chance.choice([0, 0, 0, 5]),
            "conv_time": conv_time,
            "click_payout": chance.choice([0, 10, 33.33333, 48.81041, 0.00001, 999999.99999]),
        }
        self.next_conv_id += 1
        if self.happens(self.rates.refunds):
            conversion["click_payout"] = -12.5
        if self.happens(self.rates.unknown_click):
            conversion["click_id"] = 900_000_000 + self.next_conv_id
        elif self.happens(self.rates.other_campaign):
            conversion["campaign_id"] = conversion["user_id"] * 100 + chance.randint(1, self.campaigns)
        if not self.happens(self.rates.knows_click_only):
            conversion["visitor_id"] = chance.choice(self.visitors)
        if self.happens(0.7):
            conversion["transaction_id"] = f"T-{conversion['conv_id']}"
        if self.happens(0.2):
            conversion["click_cpc"] = chance.choice([0, 0.4, 7.5])
        if self.happens(0.2):
            conversion["aff_network_id"] = chance.randint(0, 9)
        return conversion

    def same_transaction(self, conversion: Fields) -> Fields:
        """Another report of an earlier conversion: same click and transaction, another id; perhaps another campaign."""
        chance = self.chance
        earlier = chance.choice(self.conversions[-50:])
        earlier_transaction = earlier.get("transaction_id", "")
        conversion = conversion | {
            "click_id": earlier["click_id"],
            "user_id": earlier["user_id"],
            "campaign_id": earlier["campaign_id"],
            "conv_time": min(self.now, earlier["conv_time"] + chance.choice([0, 0, 1, -1, 3600])),
            "transaction_id": chance.choice(
                # The last one is another transaction: case counts.
                [earlier_transaction, earlier_transaction, f" {earlier_transaction} ", earlier_transaction.lower()]
            ),
        }
        if self.happens(0.5):
            conversion["campaign_id"] = conversion["user_id"] * 100 + chance.randint(1, self.campaigns)
        return conversion

    def revised_conversion(self, conversion: Fields) -> Fields:
        chance = self.chance
        changes: Sequence[Fields] = (
            {"click_payout": chance.choice([1, 2.5, -3.00001])},
            {"conv_time": min(self.now, conversion["conv_time"] + chance.choice([-DAY, -3600, 1, 3600, 5 * DAY]))},
            {"click_time": conversion["click_time"] - 11},
            {"visitor_id": chance.choice([*self.visitors, ""])},
            {"transaction_id": chance.choice(["", f"N-{conversion['conv_id']}", f"T-{conversion['conv_id'] - 1}"])},
        )
        return conversion | chance.choice(changes)

    def delete(self, conversion: Fields) -> None:
        revised_at = conversion["conv_time"] + 10
        if self.happens(0.5):
            # A deletion needs no revised_at to win over the report it deletes.
            self.report("conversions", conversion | {"deleted": self.chance.choice([1, True])}, "deleted")
        else:
            self.report("conversions", conversion | {"deleted": 1, "revised_at": revised_at}, "deleted")
        if self.happens(0.35):
            self.report("conversions", conversion | {"deleted": 0, "revised_at": revised_at + 5}, "undeleted")

    # What both have in common

    def some_time(self) -> int:
        # Half of all lies in one tenth of the time, so that windows with more than 25 clicks happen.
        span = self.now - self.start
        moment = self.start + self.chance.randrange(span // 10 if self.happens(0.5) else span)
        return moment - moment % 900 if self.happens(self.rates.equal_times) else moment

    def revise(self, topic: str, fields: Fields, change: Callable[[Fields], Fields]) -> None:
        reported_at = fields["click_time"]
        for number in range(1, self.chance.choice([2, 2, 3])):
            fields = change(fields) | {"revised_at": reported_at + 10 * number}
            self.report(topic, fields, f"revised {topic}")

    def report(self, topic: str, fields: Fields, kind: str) -> None:
        """Plan a record, and perhaps the same one again."""
        event_time = fields["conv_time"] if topic == "conversions" else fields["click_time"]
        sent_at = event_time + self.chance.randint(0, 5)
        if self.happens(self.rates.late):
            sent_at += self.chance.randint(0, 3 * DAY)
        key: bytes | None = record_key(fields)
        if self.happens(self.rates.wrong_key):
            key, kind = self.chance.choice([b"9:999", b"", b"\xff\xfe", None]), "wrong key"
        self.send_at(sent_at, Sent(topic, as_bytes(fields), key, kind))
        if self.happens(self.rates.doubled):
            again = sent_at + self.chance.choice([0, 1, 3600, DAY])
            self.send_at(again, Sent(topic, as_bytes(fields), key, "doubled"))
        if self.happens(self.rates.doubled_otherwise):
            again = sent_at + self.chance.choice([-2, 0, 3600, DAY])
            self.send_at(again, Sent(topic, self.otherwise(fields), key, "doubled otherwise"))

    def send_at(self, sent_at: int, sent: Sent) -> None:
        self.plan.append((sent_at, len(self.plan), sent))

    def otherwise(self, fields: Fields) -> bytes:
        """The same content, written in another way."""
        names = self.chance.sample(sorted(fields), len(fields))
        written: Fields = {name: fields[name] for name in names}
        for name in ("click_bot", "click_filtered", "deleted"):
            if name in written:
                written[name] = bool(written[name])
        return json.dumps(written | {"sender": "spare", "tries": 2}, indent=1, ensure_ascii=False).encode()

    # What cannot be taken

    def send_broken(self) -> None:
        topic = self.chance.choice(["clicks", "conversions"] if self.conversions else ["clicks"])
        whole = self.chance.choice(self.clicks if topic == "clicks" else self.conversions)
        kind = self.chance.choice(list(BROKEN))
        event_time = whole["conv_time"] if topic == "conversions" else whole["click_time"]
        value = BROKEN[kind](whole, self.now)
        self.send_at(event_time + self.chance.randint(0, 60), Sent(topic, value, record_key(whole), kind))


def _with(whole: Fields, **changes: object) -> bytes:
    return as_bytes(whole | changes)


def _time_name(whole: Fields) -> str:
    return "conv_time" if "conv_id" in whole else "click_time"


def _money_name(whole: Fields) -> str:
    return "click_payout" if "conv_id" in whole else "click_cpc"


# By kind: bytes made from the fields of a good record, and the time that is now.
BROKEN: dict[str, Callable[[Fields, int], bytes | None]] = {
    "bad JSON": lambda whole, now: as_bytes(whole)[:-2],
    "not UTF-8": lambda whole, now: as_bytes(whole)[:-1] + b',"note":"\xff"}',
    "not an object": lambda whole, now: b"[" + as_bytes(whole) + b"]",
    "empty value": lambda whole, now: b"",
    "null value": lambda whole, now: None,
    "not a number": lambda whole, now: as_bytes(whole)[:-1] + b',"%s":NaN}' % _money_name(whole).encode(),
    "wrong type of id": lambda whole, now: _with(whole, click_id=[7]),
    "wrong type of time": lambda whole, now: _with(whole, **{_time_name(whole): "yesterday"}),
    "wrong type of money": lambda whole, now: _with(whole, **{_money_name(whole): {"amount": 1}}),
    "wrong type of flag": lambda whole, now: _with(whole, **{"deleted" if "conv_id" in whole else "click_bot": 2}),
    "wrong type of visitor": lambda whole, now: _with(whole, visitor_id=17),
    "half an id": lambda whole, now: _with(whole, click_id=7.5),
    "missing user": lambda whole, now: as_bytes({name: whole[name] for name in whole if name != "user_id"}),
    "missing time": lambda whole, now: as_bytes({name: whole[name] for name in whole if name != _time_name(whole)}),
    "negative id": lambda whole, now: _with(whole, click_id=-whole["click_id"]),
    "user 0": lambda whole, now: _with(whole, user_id=0),
    "user too large": lambda whole, now: _with(whole, user_id=1 << 24),
    "click id too large": lambda whole, now: _with(whole, click_id=1 << 64),
    "money too large": lambda whole, now: _with(whole, **{_money_name(whole): 1_000_000}),
    "time too large": lambda whole, now: _with(whole, **{_time_name(whole): 1 << 32}),
    "negative time": lambda whole, now: _with(whole, **{_time_name(whole): -1}),
    "six decimals": lambda whole, now: _with(whole, **{_money_name(whole): 1.234567}),
    "far future": lambda whole, now: _with(whole, **{_time_name(whole): now + 60 * DAY}),
}
