"""How do snapshots and credits look on their topics?"""

from msgspec.json import Encoder

from stream.core.hours import CreditRow, HourKey
from stream.core.money import Units, amount_text
from stream.core.results import SnapshotRow
from stream.core.totals import Scope

_STEP_DECIMALS = 4

_encode = Encoder().encode


def encode_snapshot(hour: HourKey, snapshot: SnapshotRow, *, revision: int, is_final: bool) -> bytes:
    """A record of snapshot.v1."""
    key = snapshot.key
    return _encode(
        {
            "user_id": hour.user_id,
            "model_id": key.model_id,
            "scope_type": key.scope.value,
            "scope_id": None if key.scope is Scope.GLOBAL else key.scope_id,
            "date_hour": hour.date_hour,
            "attributed_clicks": snapshot.clicks,
            "attributed_conversions": snapshot.conversions,
            "attributed_revenue": step_text(snapshot.revenue),
            "attributed_cost": step_text(snapshot.cost),
            "revision": revision,
            "final": is_final,
        }
    )


def encode_credit(hour: HourKey, credit: CreditRow, *, revision: int, is_final: bool) -> bytes:
    """A record of credit.v1. Written by hand: an hour may have a hundred thousand, and all are numbers."""
    share = amount_text(Units(credit.credit))
    return (
        f'{{"user_id":{hour.user_id},"model_id":{credit.model_id},"date_hour":{hour.date_hour},'
        f'"conv_id":{credit.conv_id},"click_id":{credit.click_id},"position":{credit.position},'
        f'"credit":"{share}","weight":"{share}","revision":{revision},"final":{"true" if is_final else "false"}}}'
    ).encode()


def step_text(steps: int) -> str:
    """Decimal text of an amount in steps of 0.0001, e.g. '-12.5000'."""
    sign = "-" if steps < 0 else ""
    whole, rest = divmod(abs(steps), 10**_STEP_DECIMALS)
    return f"{sign}{whole}.{rest:0{_STEP_DECIMALS}d}"
