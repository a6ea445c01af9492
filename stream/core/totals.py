"""What does a conversion add to the totals of its hour? In every scope, exact in units of 0.00001."""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from stream.core.attribution import TouchCredit
from stream.core.credit import split
from stream.core.events import Conversion
from stream.core.facts import Journey, Outcome, Touch
from stream.core.money import Units


class Scope(StrEnum):
    """Values of 202_attribution_snapshots.scope_type, and the id that each of them goes by."""

    GLOBAL = "global"  # none
    ACCOUNT = "account"  # ppc_account_id of the converting click
    ADVERTISER = "advertiser"  # aff_network_id
    CAMPAIGN = "campaign"
    TRAFFIC_SOURCE = "traffic_source"  # ppc_network_id of each touch
    LANDING_PAGE = "landing_page"  # landing_page_id of each touch
    ADGROUP = "adgroup"  # text_ad_id of each touch


# With the place of the id in a touch.
_TOUCH_SCOPES = (
    (Scope.TRAFFIC_SOURCE, Touch._fields.index("ppc_network_id")),
    (Scope.LANDING_PAGE, Touch._fields.index("landing_page_id")),
    (Scope.ADGROUP, Touch._fields.index("text_ad_id")),
)


class ScopeKey(NamedTuple):
    """One row of 202_attribution_snapshots within an hour. `scope_id` 0: global, NULL there."""

    model_id: int
    scope: Scope
    scope_id: int


class Total(NamedTuple):
    """Sums over conversions. `clicks` counts credits, of which a conversion gives one for each credited touch."""

    clicks: int
    conversions: int
    revenue: Units
    cost: Units

    def plus(self, other: "Total", sign: int) -> "Total":
        return Total(
            self.clicks + sign * other.clicks,
            self.conversions + sign * other.conversions,
            Units(self.revenue + sign * other.revenue),
            Units(self.cost + sign * other.cost),
        )


NOTHING = Total(0, 0, Units(0), Units(0))


class Earner(NamedTuple):
    """A counted conversion with what it earns by."""

    conv_id: int
    version: int  # of its journey
    click_id: int
    conv_time: int
    campaign_id: int
    ppc_account_id: int
    aff_network_id: int
    payout: Units
    cost: Units
    touches: Sequence[Touch]

    @property
    def converting(self) -> int:
        """Index of the converting click."""
        return next(index for index, touch in enumerate(self.touches) if touch.click_id == self.click_id)


def earner_of(journey: Journey, *, is_multi_touch_on: bool) -> Earner | None:
    """None for a conversion that does not count. With multi-touch off, or purged, its only touch is the converting."""
    if journey.outcome is not Outcome.COUNTED:
        return None
    conversion = journey.conversion
    touches = journey.touches
    if not is_multi_touch_on or not touches:
        touches = (_converting_touch(conversion, touches),)
    return Earner(
        conversion.conv_id,
        journey.version,
        conversion.click_id,
        conversion.conv_time,
        conversion.campaign_id,
        journey.ppc_account_id,
        journey.aff_network_id,
        conversion.click_payout,
        journey.click_cpc,
        touches,
    )


def _converting_touch(conversion: Conversion, touches: Sequence[Touch]) -> Touch:
    return next(touch for touch in touches if touch.click_id == conversion.click_id)


def scope_totals(
    earner: Earner, credits: Sequence[TouchCredit], *, with_extra_scopes: bool
) -> Iterator[tuple[Scope, int, Total]]:
    """What one model's credits of a conversion come to. Ids of 0 name nothing, and have no totals."""
    whole = Total(len(credits), 1, earner.payout, earner.cost)
    yield Scope.GLOBAL, 0, whole
    if not with_extra_scopes:
        return
    if earner.ppc_account_id:
        yield Scope.ACCOUNT, earner.ppc_account_id, whole
    if earner.aff_network_id:
        yield Scope.ADVERTISER, earner.aff_network_id, whole
    if earner.campaign_id:
        yield Scope.CAMPAIGN, earner.campaign_id, whole
    shares: Sequence[tuple[Units, Units]] = ()
    for scope, field in _TOUCH_SCOPES:
        ids = [earner.touches[place][field] for place, _, _ in credits]
        distinct = set(ids)
        if len(distinct) == 1:  # by far the most frequent case, and nothing is to be split in it
            if ids[0]:
                yield scope, ids[0], whole
            continue
        shares = shares or _shares(earner, credits)
        for scope_id in distinct - {0}:
            yield scope, scope_id, _total_of(share for share, each in zip(shares, ids, strict=True) if each == scope_id)


def _shares(earner: Earner, credits: Sequence[TouchCredit]) -> Sequence[tuple[Units, Units]]:
    """Revenue and cost of each credited touch."""
    parts = [each.credit for each in credits]
    return list(zip(split(earner.payout, parts), split(earner.cost, parts), strict=True))


def _total_of(shares: Iterable[tuple[Units, Units]]) -> Total:
    clicks = revenue = cost = 0
    for each_revenue, each_cost in shares:
        clicks += 1
        revenue += each_revenue
        cost += each_cost
    return Total(clicks, 1, Units(revenue), Units(cost))
