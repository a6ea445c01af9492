"""What the log gives, and what SQL holds: each row that differs is one difference."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stream.core.facts import Journey, Touch
from stream.core.money import Units, amount_text

NOTHING = "nothing"


class Difference(NamedTuple):
    """A row: what kind it is, which one, and what it holds where it should hold something else."""

    what: str
    key: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} {self.key}: expected {self.expected}, found {self.found}"


def of_row(what: str, key: str, expected: "NamedTuple | None", found: "NamedTuple | None") -> Iterator[Difference]:
    """None where there is no such row. Two rows are told by the fields in which they differ."""
    if expected == found:
        return
    if expected is None or found is None:
        yield Difference(what, key, _told(expected), _told(found))
        return
    differing = [name for name, wanted, there in zip(expected._fields, expected, found, strict=True) if wanted != there]
    yield Difference(what, key, _told(expected, differing), _told(found, differing))


def of_journey(expected: Journey | None, found: Journey | None, *, is_history_short: bool) -> Iterator[Difference]:
    """`is_history_short`: SQL's own history begins too late for it, so that it may call incomplete what the log gives.

    How often a journey was written, and whether its touches were removed by hand, is nothing that the log tells.
    """
    conv_id = next(each.conversion.conv_id for each in (expected, found) if each is not None)
    if expected is not None and found is not None and is_history_short:
        found = found._replace(incomplete=expected.incomplete)
    yield from of_row("journey", f"conversion {conv_id}", _comparable(expected), _comparable(found))


def of_rows(
    what: str, key: str, expected: Sequence[tuple[int, NamedTuple]], found: Sequence[tuple[int, NamedTuple]]
) -> Iterator[Difference]:
    """By position; one that stands twice is there once too often."""
    missing = sorted((Counter(expected) - Counter(found)).elements())
    surplus = sorted((Counter(found) - Counter(expected)).elements())
    for position in sorted({position for position, _ in [*missing, *surplus]}):
        wanted = [row for place, row in missing if place == position]
        there = [row for place, row in surplus if place == position]
        for number in range(max(len(wanted), len(there))):
            yield from of_row(
                what,
                f"{key} position {position}",
                wanted[number] if number < len(wanted) else None,
                there[number] if number < len(there) else None,
            )


class _Comparable(NamedTuple):
    """Of a journey, with its conversion's fields beside its own."""

    click_id: int
    user_id: int
    campaign_id: int
    click_time: int
    conv_time: int
    click_payout: Units
    own_click_cpc: Units | None
    own_visitor_id: str
    transaction_id: str
    own_aff_network_id: int
    deleted: int
    revised_at: int
    journey_visitor_id: str
    outcome: str
    click_unknown: bool
    incomplete: bool
    click_cpc: Units
    ppc_account_id: int
    aff_network_id: int
    touches: tuple[Touch, ...]


_DECIMALS = frozenset({"revenue", "cost", "credit"})  # texts already
_MONEY = frozenset({"click_payout", "own_click_cpc", "click_cpc"})


def _comparable(journey: Journey | None) -> _Comparable | None:
    if journey is None:
        return None
    return _Comparable(
        *journey.conversion[1:],
        journey.visitor_id,
        journey.outcome.value,
        journey.click_unknown,
        journey.incomplete,
        journey.click_cpc,
        journey.ppc_account_id,
        journey.aff_network_id,
        journey.touches,
    )


def _told(row: "NamedTuple | None", names: Sequence[str] = ()) -> str:
    if row is None:
        return NOTHING
    return ", ".join(f"{name} {_value(name, getattr(row, name))}" for name in names or row._fields)


def _value(name: str, value: object) -> str:
    if value is None:
        return NOTHING
    if name in _MONEY and isinstance(value, int):
        return amount_text(Units(value))
    if name == "touches" and isinstance(value, tuple):
        return "[" + " ".join(f"{touch.click_id}@{touch.click_time}" for touch in value) + "]"
    if isinstance(value, str) and name not in _DECIMALS:
        return f'"{value}"'
    return str(int(value)) if isinstance(value, bool) else str(value)
