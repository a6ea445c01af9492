"""Which clicks are old enough to be removed? Time is that of the watermark, never that of a clock."""

from typing import NamedTuple

from stream.core.keys import JourneyKey

DAY_SECONDS = 86_400


class OldClick(NamedTuple):
    """What must be known of a click that is to be removed."""

    click_id: int
    user_id: int
    campaign_id: int
    visitor_id: str

    @property
    def key(self) -> JourneyKey:
        return JourneyKey(self.user_id, self.campaign_id, self.visitor_id)


class OldClicks(NamedTuple):
    """Of one page of the clicks, ascending by id. `up_to` None: no click has a greater id than those of this page."""

    clicks: list[OldClick]
    up_to: int | None


def removed_before(watermark: int, keep_days: int) -> int:
    """Clicks with an earlier time may go, unix seconds; 0: none yet."""
    return max(0, watermark - keep_days * DAY_SECONDS)


def least_keep_days(lookback_days: int) -> int:
    """With a day to spare, so that a conversion that comes in time never misses a click."""
    return lookback_days + 1
