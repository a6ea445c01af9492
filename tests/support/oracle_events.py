"""What does the oracle take for an event? Reads and checks the bytes of records, from the design's section 4 alone."""

import json
import re
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

FURTHEST_AHEAD = 31 * 86400
MEDIUM = (1 << 24) - 1  # mediumint unsigned
INT = (1 << 32) - 1  # int unsigned
SIGNED_INT = (1 << 31) - 1
BIG = (1 << 63) - 1  # what bigint unsigned and the whole numbers of SQLite have in common
LONGEST_TEXT = 255
LARGEST_EVENT = 65_536  # bytes
DEEPEST = 64  # of objects and lists inside one another
DECIMALS = 5


class Record(NamedTuple):
    """A record of the log. `topic` may carry a prefix."""

    topic: str
    value: bytes | None
    append_time: int  # unix seconds


class Click(NamedTuple):
    click_id: int
    user_id: int
    campaign_id: int
    click_time: int
    click_cpc: Decimal
    visitor_id: str
    ppc_account_id: int
    ppc_network_id: int
    landing_page_id: int
    text_ad_id: int
    aff_network_id: int
    click_bot: int
    click_filtered: int
    revised_at: int

    def rank(self) -> tuple[int, ...]:
        return int(self.campaign_id > 0), self.revised_at

    def is_rekeyed(self, other: "Click") -> bool:
        moved = self.campaign_id != other.campaign_id and self.campaign_id > 0 and other.campaign_id > 0
        return moved or self.user_id != other.user_id


class Conversion(NamedTuple):
    conv_id: int
    click_id: int
    user_id: int
    campaign_id: int
    click_time: int
    conv_time: int
    click_payout: Decimal
    click_cpc: Decimal | None
    visitor_id: str
    transaction_id: str
    aff_network_id: int
    deleted: int
    revised_at: int

    def rank(self) -> tuple[int, ...]:
        return self.revised_at, self.deleted

    def is_rekeyed(self, other: "Conversion") -> bool:
        return (self.user_id, self.campaign_id, self.click_id) != (other.user_id, other.campaign_id, other.click_id)


_Event = TypeVar("_Event", Click, Conversion)
_Value = TypeVar("_Value")


class Unusable(Exception):
    """The record cannot become an event."""


def read_click(value: bytes | None, append_time: int) -> Click:
    fields = _Fields(value)
    click = Click(
        click_id=fields.integer("click_id", 1, BIG),
        user_id=fields.integer("user_id", 1, MEDIUM),
        campaign_id=fields.integer("campaign_id", 0, MEDIUM),
        click_time=fields.integer("click_time", 0, INT),
        click_cpc=fields.money("click_cpc", whole_digits=2, default=Decimal(0)),
        visitor_id=fields.text("visitor_id"),
        ppc_account_id=fields.integer("ppc_account_id", 0, MEDIUM, default=0),
        ppc_network_id=fields.integer("ppc_network_id", 0, MEDIUM, default=0),
        landing_page_id=fields.integer("landing_page_id", 0, MEDIUM, default=0),
        text_ad_id=fields.integer("text_ad_id", 0, MEDIUM, default=0),
        aff_network_id=fields.integer("aff_network_id", 0, MEDIUM, default=0),
        click_bot=fields.flag("click_bot"),
        click_filtered=fields.flag("click_filtered"),
        revised_at=fields.integer("revised_at", 0, INT, default=0),
    )
    return _not_ahead(click, click.click_time, append_time)


def read_conversion(value: bytes | None, append_time: int) -> Conversion:
    fields = _Fields(value)
    conversion = Conversion(
        conv_id=fields.integer("conv_id", 1, INT),
        click_id=fields.integer("click_id", 1, BIG),
        user_id=fields.integer("user_id", 1, MEDIUM),
        campaign_id=fields.integer("campaign_id", 1, MEDIUM),
        click_time=fields.integer("click_time", 0, SIGNED_INT),
        conv_time=fields.integer("conv_time", 0, SIGNED_INT),
        click_payout=fields.money("click_payout", whole_digits=6),
        click_cpc=fields.money("click_cpc", whole_digits=2) if fields.has("click_cpc") else None,
        visitor_id=fields.text("visitor_id"),
        transaction_id=fields.text("transaction_id"),
        aff_network_id=fields.integer("aff_network_id", 0, MEDIUM, default=0),
        deleted=fields.flag("deleted"),
        revised_at=fields.integer("revised_at", 0, INT, default=0),
    )
    return _not_ahead(conversion, conversion.conv_time, append_time)


def _not_ahead(event: _Event, event_time: int, append_time: int) -> _Event:
    if event_time > append_time + FURTHEST_AHEAD:
        raise Unusable("event time is too far ahead")
    return event


class _Fields:
    """The fields of one JSON object; unknown ones are ignored, and null is the same as absent."""

    def __init__(self, value: bytes | None) -> None:
        if value is None:
            raise Unusable("no value")
        if len(value) > LARGEST_EVENT:
            raise Unusable("too large")
        try:
            found = json.loads(value.decode(), parse_float=_number, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise Unusable("not JSON") from error
        if _depth(found) > DEEPEST:
            raise Unusable("nested too deeply")
        if not isinstance(found, dict):
            raise Unusable("not an object")
        self._found: dict[str, Any] = found

    def has(self, name: str) -> bool:
        return self._found.get(name) is not None

    def integer(self, name: str, least: int, greatest: int, *, default: int | None = None) -> int:
        if not self.has(name):
            return self._absent(name, default)
        found = self._found[name]
        if isinstance(found, bool) or not isinstance(found, int | Decimal):
            raise Unusable(f"{name} is not a number")
        if not least <= found <= greatest:
            raise Unusable(f"{name} is out of range")
        if found != int(found):
            raise Unusable(f"{name} is not whole")
        return int(found)

    def money(self, name: str, *, whole_digits: int, default: Decimal | None = None) -> Decimal:
        if not self.has(name):
            return self._absent(name, default)
        found = self._found[name]
        if isinstance(found, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", found.strip()):
            found = Decimal(found.strip())
        if isinstance(found, bool) or not isinstance(found, int | Decimal):
            raise Unusable(f"{name} is not a decimal")
        amount = Decimal(found)
        if not amount.is_finite() or amount.copy_abs() >= 10**whole_digits:
            raise Unusable(f"{name} is out of range")
        if _decimals(amount) > DECIMALS:
            raise Unusable(f"{name} has more than five decimals")
        return amount

    def text(self, name: str) -> str:
        found = self._found[name] if self.has(name) else ""
        if not isinstance(found, str):
            raise Unusable(f"{name} is not text")
        found = found.strip()
        if len(found) > LONGEST_TEXT:
            raise Unusable(f"{name} is too long")
        if any(character == "\0" or 0xD800 <= ord(character) <= 0xDFFF for character in found):
            raise Unusable(f"{name} has characters that are no text")
        return found

    def flag(self, name: str) -> int:
        found = self._found[name] if self.has(name) else 0
        if not isinstance(found, int | Decimal) or found not in (0, 1):
            raise Unusable(f"{name} is neither true nor false")
        return int(found)

    def _absent(self, name: str, default: _Value | None) -> _Value:
        if default is None:
            raise Unusable(f"{name} is missing")
        return default


def _decimals(amount: Decimal) -> int:
    """Digits after the point, zeros at the end not counted. No arithmetic, for that would round."""
    _, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int), "only finite amounts have decimals"
    significant = "".join(map(str, digits)).rstrip("0")
    return -exponent - (len(digits) - len(significant)) if significant else 0


def _number(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except ArithmeticError:
        return Decimal("Infinity")  # beyond every range, which matters only where the field does


def _depth(found: object) -> int:
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, list) else None
    return 0 if parts is None else 1 + max(map(_depth, parts), default=0)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
