"""Is multi-touch on for a conversion? The settings of an account, by scope and by the time of the conversion."""

from bisect import bisect_right
from collections.abc import Iterable
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


class Switchboard:
    """Toggles of one account by scope and id: an account may have thousands, and each conversion asks for three."""

    def __init__(self, toggles: Iterable[Toggle]) -> None:
        self._said: dict[tuple[ToggleScope, int], list[Toggle]] = {}
        for each in toggles:
            self._said.setdefault((each.scope, each.scope_id), []).append(each)
        for said in self._said.values():
            said.sort(key=_recency)

    def is_multi_touch_on(self, *, advertiser: int, campaign: int, conv_time: int) -> bool:
        """On, where none says otherwise."""
        is_on = True
        for place in (
            (ToggleScope.GLOBAL, 0),
            (ToggleScope.ADVERTISER, advertiser),
            (ToggleScope.CAMPAIGN, campaign),
        ):
            said = self._said.get(place)
            if said is not None and (known := bisect_right(said, (conv_time, True), key=_recency)):
                is_on = said[known - 1].is_enabled
        return is_on


def is_multi_touch_on(toggles: Iterable[Toggle], *, advertiser: int, campaign: int, conv_time: int) -> bool:
    """For one conversion alone. `toggles` are those of its account, in any order."""
    return Switchboard(toggles).is_multi_touch_on(advertiser=advertiser, campaign=campaign, conv_time=conv_time)


def _recency(toggle: Toggle) -> tuple[int, bool]:
    """Of two at one second, off counts: nothing is shared that somebody wanted not to be shared."""
    return toggle.since, not toggle.is_enabled
