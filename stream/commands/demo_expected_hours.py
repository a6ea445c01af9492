"""What the hours must hold after the demo's traffic: each conversion shared out anew under each model.

Shares no code with `stream.core`, so that the demo's verdict is worth something.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction

from stream.commands.demo_expected import Expected
from stream.commands.demo_models import MODELS, ShownModel
from stream.commands.demo_rows import CreditKey, Credits, ShownCredit, ShownTotal, TotalKey, Totals
from stream.commands.demo_traffic import HOUR, Fields, Traffic

_PARTS = 100_000
_Sums = dict[TotalKey, list[int]]  # clicks, conversions, revenue and cost in units of 0.00001


def expected_hours(traffic: Traffic, expected: Expected) -> tuple[Totals, Credits]:
    """Of every account, hour, model and scope."""
    sums: _Sums = defaultdict(lambda: [0, 0, 0, 0])
    credits: dict[CreditKey, ShownCredit] = {}
    for conv_id, click_ids in expected.touches.items():
        paid = traffic.conversions[conv_id]
        hour = paid["conv_time"] // HOUR * HOUR
        for model in MODELS:
            rows = list(_shared(model, paid, [traffic.clicks.get(each) for each in click_ids], click_ids))
            for position, click_id, parts in rows:
                key = CreditKey(paid["user_id"], model.slug, hour, conv_id, position)
                credits[key] = ShownCredit(click_id, parts)
            shared = [(traffic.clicks.get(click_id, {}), parts) for _, click_id, parts in rows]
            converting = traffic.clicks.get(paid["click_id"], {})
            for scope, scope_id, *amounts in _amounts(paid, converting, shared):
                entry = sums[TotalKey(paid["user_id"], model.slug, hour, scope, scope_id)]
                for index, amount in enumerate(amounts):
                    entry[index] += amount
    return {key: _total(sum_) for key, sum_ in sums.items()}, credits


def _shared(
    model: ShownModel, paid: Fields, clicks: Sequence[Fields | None], click_ids: Sequence[int]
) -> Iterator[tuple[int, int, int]]:
    """Position, click and parts of each touch that shares."""
    if model.type_name == "last_touch":
        yield 0, paid["click_id"], _PARTS
        return
    # A click that was not seen is the converting one, whose time the conversion knows.
    times = [(click or paid)["click_time"] for click in clicks]
    parts = _largest_remainder(_PARTS, _weights(model, paid["conv_time"], times))
    for position, (click_id, part) in enumerate(zip(click_ids, parts, strict=True)):
        yield position, click_id, part


def _weights(model: ShownModel, conv_time: int, times: Sequence[int]) -> list[Fraction]:
    count = len(times)
    if model.type_name == "linear" or count == 1:
        return [Fraction(1)] * count
    if model.type_name == "time_decay":
        half_life = model.config["half_life_hours"] * HOUR
        return [Fraction(0.5 ** (max(0, conv_time - at) / half_life)) for at in times]
    first, last = (Fraction(str(model.config[f"{end}_touch_weight"])) for end in ("first", "last"))
    middle = [] if count == 2 else [(1 - first - last) / (count - 2)] * (count - 2)
    return [first, *middle, last]


def _largest_remainder(total: int, weights: Sequence[Fraction]) -> list[int]:
    wanted = [weight * total / sum(weights) for weight in weights]
    given = [int(each) for each in wanted]
    most_cut = sorted(range(len(weights)), key=lambda place: (given[place] - wanted[place], place))
    for place in most_cut[: total - sum(given)]:
        given[place] += 1
    return given


def _amounts(
    paid: Fields, converting: Fields, shared: Sequence[tuple[Fields, int]]
) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Scope, id, clicks, conversions, revenue and cost. `shared`: clicks with their parts; what is unknown is empty."""
    money = _units(paid["click_payout"]), _units(converting.get("click_cpc", 0))
    yield "global", 0, len(shared), 1, *money
    for scope, scope_id in (("campaign", paid["campaign_id"]), ("account", converting.get("ppc_account_id", 0))):
        if scope_id:
            yield scope, scope_id, len(shared), 1, *money
    shares = [_share(amount, [parts for _, parts in shared]) for amount in money]
    sources = [click.get("ppc_network_id", 0) for click, _ in shared]
    for source in set(sources) - {0}:
        own = [index for index, each in enumerate(sources) if each == source]
        revenue, cost = (sum(share[index] for index in own) for share in shares)
        yield "traffic_source", source, len(own), 1, revenue, cost


def _units(amount: float) -> int:
    return round(amount * 100_000)


def _share(amount: int, parts: Sequence[int]) -> list[int]:
    given = _largest_remainder(abs(amount), [Fraction(each) for each in parts])
    return [each if amount >= 0 else -each for each in given]


def _total(sums: Sequence[int]) -> ShownTotal:
    clicks, conversions, revenue, cost = sums
    return ShownTotal(clicks, conversions, _rounded(revenue), _rounded(cost))


def _rounded(units: int) -> int:
    """Steps of 0.0001, half away from zero."""
    steps = (abs(units) + 5) // 10
    return steps if units >= 0 else -steps
