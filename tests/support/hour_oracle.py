"""What must stand in the hours? One plain batch computation over all counted conversions, models and settings.

It is written from the reference's section 3 and the design's section 7 alone and shares no code with the product, so
that one mistake cannot hide in both. Shares are fractions, money is Decimal; nothing is a float.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from tests.support.oracle import ExpectedRows
from tests.support.oracle_events import Click

HOUR = 3600
PARTS = 100_000  # of a credit, and of one unit of money
SMALLEST_FLOAT = Decimal(2) ** -1075  # weights are floats: what is not above this one is no weight at all
GREATEST_TOTAL = Decimal(10) ** 8  # the first amount that DECIMAL(12,4) does not hold
_PRECISE = Context(prec=60)


class Touch(NamedTuple):
    """A click of a journey, with the scopes that share in it."""

    click_time: int
    click_id: int
    traffic_source: int
    landing_page: int
    adgroup: int


class Earning(NamedTuple):
    """A counted conversion with its whole journey."""

    conv_id: int
    user_id: int
    campaign_id: int
    conv_time: int
    click_id: int
    payout: Decimal
    cost: Decimal
    account: int
    advertiser: int
    touches: tuple[Touch, ...]

    @property
    def date_hour(self) -> int:
        return self.conv_time // HOUR * HOUR


class Model(NamedTuple):
    """An active one whose config is right."""

    user_id: int
    model_id: int
    type: str
    config: Mapping[str, Any] = {}  # read only


class Switch(NamedTuple):
    """Multi-touch is on or off from a second on. `scope`: global (id 0), advertiser, campaign."""

    user_id: int
    scope: str
    scope_id: int
    since: int
    is_on: bool


class Snapshot(NamedTuple):
    """A row of 202_attribution_snapshots; scope_id 0 for its NULL."""

    user_id: int
    model_id: int
    date_hour: int
    scope: str
    scope_id: int
    clicks: int
    conversions: int
    revenue: Decimal
    cost: Decimal


class Credit(NamedTuple):
    """A row of 202_attribution_touchpoints."""

    user_id: int
    model_id: int
    date_hour: int
    conv_id: int
    position: int
    click_id: int
    parts: int


@dataclass(slots=True)
class ExpectedHours:
    """Both sorted."""

    snapshots: Sequence[Snapshot]
    credits: Sequence[Credit]


def expected_hours(
    earnings: Iterable[Earning],
    models: Sequence[Model],
    switches: Sequence[Switch] = (),
    *,
    with_extra_scopes: bool = True,
) -> ExpectedHours:
    """A model is left out of an hour in which one of its totals would not fit its column."""
    sums: dict[tuple[int, int, int, str, int], _Sum] = defaultdict(_Sum)
    credits: list[Credit] = []
    models_by_user: dict[int, list[Model]] = defaultdict(list)
    for model in models:
        models_by_user[model.user_id].append(model)
    for earning in earnings:
        known = earning if is_multi_touch(switches, earning) else alone(earning)
        for model in models_by_user[earning.user_id]:
            rows = shares(model, known)
            place = earning.user_id, model.model_id, earning.date_hour
            credits += [
                Credit(*place, earning.conv_id, position, touch.click_id, parts) for touch, position, parts in rows
            ]
            for scope, scope_id, clicks, revenue, cost in _scopes(known, rows, with_extra_scopes=with_extra_scopes):
                sums[*place, scope, scope_id].add(clicks, revenue, cost)
    misfits = {key[:3] for key, total in sums.items() if not total.fits()}
    return ExpectedHours(
        sorted(Snapshot(*key, *total.row()) for key, total in sums.items() if key[:3] not in misfits),
        sorted(credit for credit in credits if credit[:3] not in misfits),
    )


@dataclass(slots=True)
class _Sum:
    clicks: int = 0
    conversions: int = 0
    revenue: Decimal = field(default_factory=Decimal)
    cost: Decimal = field(default_factory=Decimal)

    def add(self, clicks: int, revenue: Decimal, cost: Decimal) -> None:
        self.clicks += clicks
        self.conversions += 1
        self.revenue += revenue
        self.cost += cost

    def row(self) -> tuple[int, int, Decimal, Decimal]:
        return self.clicks, self.conversions, _stored(self.revenue), _stored(self.cost)

    def fits(self) -> bool:
        return max(abs(_stored(self.revenue)), abs(_stored(self.cost))) < GREATEST_TOTAL


def _stored(amount: Decimal) -> Decimal:
    """DECIMAL(12,4): rounded once, half away from zero."""
    return amount.quantize(Decimal("0.0001"), ROUND_HALF_UP) + 0  # no minus before a zero


def alone(earning: Earning) -> Earning:
    return earning._replace(touches=tuple(touch for touch in earning.touches if touch.click_id == earning.click_id))


def is_multi_touch(switches: Sequence[Switch], earning: Earning) -> bool:
    """The latest word of each scope before the conversion; the narrower scope has the last one. Of a tie, off."""
    is_on = True
    for scope, scope_id in (("global", 0), ("advertiser", earning.advertiser), ("campaign", earning.campaign_id)):
        said = [
            (switch.since, not switch.is_on)
            for switch in switches
            if switch[:3] == (earning.user_id, scope, scope_id) and switch.since <= earning.conv_time
        ]
        if said:
            is_on = not max(said)[1]
    return is_on


# How is a conversion shared?


def shares(model: Model, earning: Earning) -> list[tuple[Touch, int, int]]:
    """Touch, stored position and parts of each credited touch, in the order of the journey."""
    if model.type in ("last_touch", "algorithmic"):
        return [(touch, 0, PARTS) for touch in earning.touches if touch.click_id == earning.click_id]
    weights = _weights(model, earning)
    return [
        (touch, position, parts)
        for position, (touch, weight, parts) in enumerate(
            zip(earning.touches, weights, largest_remainder(PARTS, weights), strict=True)
        )
        if weight
    ]


def _weights(model: Model, earning: Earning) -> list[Fraction]:
    count = len(earning.touches)
    even = [Fraction(1)] * count
    if count == 1:
        return even
    match model.type:
        case "first_touch":
            return [Fraction(1), *[Fraction(0)] * (count - 1)]
        case "linear":
            return even
        case "assisted":
            return [*[Fraction(1)] * (count - 1), Fraction(0)]
        case "time_decay":
            half_life = HOUR * int(model.config["half_life_hours"])
            ages = [max(0, earning.conv_time - touch.click_time) for touch in earning.touches]
            found = [_halved(age, half_life) for age in ages]
        case "position_based":
            first, last = (Fraction(str(model.config[f"{end}_touch_weight"])) for end in ("first", "last"))
            middle = [] if count == 2 else [(1 - first - last) / (count - 2)] * (count - 2)
            found = [first, *middle, last]
        case _:
            raise AssertionError(model.type)
    return found if any(found) else even


@lru_cache(maxsize=100_000)
def _halved(age: int, half_life: int) -> Fraction:
    weight = _PRECISE.power(Decimal(2), -_PRECISE.divide(Decimal(age), Decimal(half_life)))
    return Fraction(weight) if weight > SMALLEST_FLOAT else Fraction(0)


def largest_remainder(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Whole parts that sum to the total; what is left goes to those cut off most, the earlier of two alike."""
    whole = sum(weights)
    wanted = [weight * total / whole for weight in weights]
    given = [int(part) for part in wanted]
    by_loss = sorted(range(len(weights)), key=lambda place: (given[place] - wanted[place], place))
    for place in by_loss[: total - sum(given)]:
        given[place] += 1
    return given


def share_money(amount: Decimal, parts: Sequence[int]) -> list[Decimal]:
    """To the last 0.00001, also of a negative amount."""
    steps = int(abs(amount) * PARTS)
    given = largest_remainder(steps, [Fraction(part) for part in parts])
    return [Decimal(step if amount >= 0 else -step) / PARTS for step in given]


def _scopes(
    earning: Earning, rows: Sequence[tuple[Touch, int, int]], *, with_extra_scopes: bool
) -> Iterator[tuple[str, int, int, Decimal, Decimal]]:
    """Scope, id, clicks, revenue and cost of every total that the conversion adds to."""
    whole = len(rows), earning.payout, earning.cost
    yield "global", 0, *whole
    if not with_extra_scopes:
        return
    for scope, scope_id in (
        ("account", earning.account),
        ("advertiser", earning.advertiser),
        ("campaign", earning.campaign_id),
    ):
        if scope_id:
            yield scope, scope_id, *whole
    parts = [part for _, _, part in rows]
    money = list(zip(share_money(earning.payout, parts), share_money(earning.cost, parts), strict=True))
    for scope in ("traffic_source", "landing_page", "adgroup"):
        ids = [getattr(touch, scope) for touch, _, _ in rows]
        for scope_id in set(ids) - {0}:
            own = [each for each, owner in zip(money, ids, strict=True) if owner == scope_id]
            yield scope, scope_id, len(own), sum(each[0] for each in own), sum(each[1] for each in own)  # type: ignore[misc]


# From events


def earnings_of(rows: ExpectedRows) -> list[Earning]:
    """The counted conversions of what the oracle of events expects."""
    touches: dict[int, list[Touch]] = defaultdict(list)
    for touchpoint in rows.touchpoints:
        click = rows.clicks.get(touchpoint.click_id)
        scopes = (click.ppc_network_id, click.landing_page_id, click.text_ad_id) if click else (0, 0, 0)
        touches[touchpoint.conv_id].append(Touch(touchpoint.click_time, touchpoint.click_id, *scopes))
    found = []
    for journey in rows.journeys:
        if journey.outcome != "counted":
            continue
        conversion = rows.conversions[journey.conv_id]
        click = rows.clicks.get(conversion.click_id)
        found.append(
            Earning(
                conv_id=conversion.conv_id,
                user_id=conversion.user_id,
                campaign_id=conversion.campaign_id,
                conv_time=conversion.conv_time,
                click_id=conversion.click_id,
                payout=conversion.click_payout,
                cost=_cost(conversion.click_cpc, click),
                account=click.ppc_account_id if click else 0,
                advertiser=conversion.aff_network_id or (click.aff_network_id if click else 0),
                touches=tuple(touches[conversion.conv_id]),
            )
        )
    return found


def _cost(own: Decimal | None, click: Click | None) -> Decimal:
    """The conversion's own, else its click's, else nothing."""
    if own is not None:
        return own
    return click.click_cpc if click else Decimal(0)
