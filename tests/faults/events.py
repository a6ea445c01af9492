"""A few events made by hand, for tests that must know exactly what happens to which click."""

from tests.support.traffic import DAY, Sent, as_bytes, record_key

HOUR = 3600
USER, CAMPAIGN = 1, 101
OTHER_CAMPAIGN = 102  # with three partitions in another one than CAMPAIGN


def click(click_id: int, at: int, **fields: object) -> Sent:
    event: dict[str, object] = {
        "click_id": click_id,
        "user_id": USER,
        "campaign_id": CAMPAIGN,
        "click_time": at,
        **fields,
    }
    return Sent("clicks", as_bytes(event), record_key(event), "click")


def conversion(conv_id: int, of_click: int, at: int, **fields: object) -> Sent:
    """It knows the click alone, not the visitor; the click's time as it says is an hour before."""
    event: dict[str, object] = {"conv_id": conv_id, "click_id": of_click, "user_id": USER, "campaign_id": CAMPAIGN}
    event |= {"click_time": at - HOUR, "conv_time": at, "click_payout": 10, **fields}
    return Sent("conversions", as_bytes(event), record_key(event), "conversion")


class Story:
    """Clicks that are revised after they took part in journeys: state, SQL and log must agree on them afterwards."""

    def __init__(self, now: int) -> None:
        self.start = now - 10 * DAY

    def at(self, hours: int) -> int:
        return self.start + hours * HOUR

    def before(self) -> list[Sent]:
        """Journeys of two visitors and of the campaign, so that the state knows all there is to know of each key."""
        ann = [click(number, self.at(number), visitor_id="ann") for number in range(1, 6)]
        bob = [click(10 + number, self.at(number), visitor_id="bob") for number in range(1, 6)]
        campaign = [click(20 + number, self.at(number)) for number in range(1, 6)]
        conversions = [conversion(number, 10 * number - 5, self.at(10)) for number in (1, 2, 3)]
        # Its click lies in another campaign, and with several partitions in another one.
        elsewhere = conversion(4, 2, self.at(10), campaign_id=OTHER_CAMPAIGN)
        return [*ann, *bob, *campaign, *conversions, elsewhere]

    def revisions(self) -> list[Sent]:
        """One click each: to another visitor, to another time, to a bot, to another cost, and out of the campaign."""
        revised: dict[str, object] = {"revised_at": self.at(20)}
        return [
            click(2, self.at(2), visitor_id="bob", **revised),
            click(12, self.at(4) + 1, visitor_id="bob", **revised),
            click(13, self.at(3), visitor_id="bob", click_bot=1, **revised),
            click(14, self.at(4), visitor_id="bob", click_cpc=3.5, **revised),
            click(22, self.at(2), visitor_id="ann", **revised),
            click(23, self.at(12), **revised),
        ]

    def after(self, round_number: int = 0) -> list[Sent]:
        """Later conversions of the same keys: they see whether anything kept an old value of a click."""
        return [
            conversion(10 * round_number + number, of_click, self.at(24 + round_number))
            for number, of_click in ((101, 5), (102, 15), (103, 25))
        ]
