"""Clicks, conversions and journeys with defaults, for tests that write them to SQL."""

from stream.core.events import Click, Conversion
from stream.core.facts import Journey, Outcome, Touch
from stream.core.money import Units
from stream.core.progress import Advance


def click(click_id: int = 1, **fields: object) -> Click:
    standard = Click(
        click_id=click_id,
        user_id=7,
        campaign_id=70,
        click_time=1_700_000_000,
        click_cpc=Units(12_345),
        visitor_id="",
        ppc_account_id=1,
        ppc_network_id=2,
        landing_page_id=3,
        text_ad_id=4,
        aff_network_id=5,
        click_bot=0,
        click_filtered=0,
        revised_at=0,
    )
    return standard._replace(**fields)  # type: ignore[arg-type]  # each test gives what the field takes


def conversion(conv_id: int = 1, **fields: object) -> Conversion:
    standard = Conversion(
        conv_id=conv_id,
        click_id=1,
        user_id=7,
        campaign_id=70,
        click_time=1_700_000_000,
        conv_time=1_700_003_700,
        click_payout=Units(1_250_000),
        click_cpc=None,
        visitor_id="",
        transaction_id="",
        aff_network_id=5,
        deleted=0,
        revised_at=0,
    )
    return standard._replace(**fields)  # type: ignore[arg-type]  # each test gives what the field takes


def touch(click_id: int = 1, click_time: int = 1_700_000_000) -> Touch:
    return Touch(click_time, click_id, 1, 2, 3, 4)


def journey(of: Conversion | None = None, **fields: object) -> Journey:
    standard = Journey(
        conversion=of or conversion(),
        visitor_id="",
        outcome=Outcome.COUNTED,
        click_unknown=False,
        incomplete=False,
        click_cpc=Units(12_345),
        ppc_account_id=1,
        aff_network_id=5,
        touches=(touch(),),
        version=1,
    )
    return standard._replace(**fields)  # type: ignore[arg-type]  # each test gives what the field takes


def advance(partition: int = 0, *, epoch: int = 1, **fields: int) -> Advance:
    return Advance(
        partition=partition,
        epoch=epoch,
        next_offsets={"clicks": fields.get("offset", 1)},
        watermark=fields.get("watermark", 0),
        newest_conversion=fields.get("newest_conversion", 0),
    )
