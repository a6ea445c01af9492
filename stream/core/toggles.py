"""Is multi-touch on for a conversion? The settings of an account, by scope and by the time of the conversion."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class ToggleScope(StrEnum):
    """Scopes whose settings count; each overrides those before it. Prosper202 stores others and never asks them."""

    GLOBAL = "global"
    ADVERTISER = "advertiser"  # aff_network_id
    CAMPAIGN = "campaign"


class Toggle(NamedTuple):
    """From a time on, multi-touch is on or off in a scope; until then, and for conversions before it, as it was."""

    scope: ToggleScope
    scope_id: int  # 0: global
    since: int  # unix seconds of the conversion
    is_enabled: bool


def is_multi_touch_on(toggles: Sequence[Toggle], *, advertiser: int, campaign: int, conv_time: int) -> bool:
    """`toggles` are those of the conversion's account, in any order. On, where none says otherwise."""
    ids = {ToggleScope.GLOBAL: 0, ToggleScope.ADVERTISER: advertiser, ToggleScope.CAMPAIGN: campaign}
    is_on = True
    for scope in ToggleScope:
        said = [each for each in toggles if (each.scope, each.scope_id) == (scope, ids[scope])]
        last = max((each for each in said if each.since <= conv_time), key=_recency, default=None)
        if last is not None:
            is_on = last.is_enabled
    return is_on


def _recency(toggle: Toggle) -> tuple[int, bool]:
    """Of two at one second, off counts: nothing is shared that somebody wanted not to be shared."""
    return toggle.since, not toggle.is_enabled
