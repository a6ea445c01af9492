"""What has happened: clicks and conversions, and which of two reports of one id counts."""

from typing import NamedTuple

from stream.core.money import Units

# The highest campaign id of a click that has none yet (advanced landing page); such a click is in no journey
# as a candidate, for no conversion has campaign 0.
NO_CAMPAIGN = 0


class Click(NamedTuple):
    """One row of 202_stream_clicks, in its column order. Times are unix seconds; absent ids are 0, absent text ''."""

    click_id: int
    user_id: int
    campaign_id: int
    click_time: int
    click_cpc: Units
    visitor_id: str
    ppc_account_id: int
    ppc_network_id: int
    landing_page_id: int
    text_ad_id: int
    aff_network_id: int
    click_bot: int
    click_filtered: int
    revised_at: int


class Conversion(NamedTuple):
    """The thing paid for. `click_time` is what the sender says of the converting click; no `click_cpc`: the click's."""

    conv_id: int
    click_id: int
    user_id: int
    campaign_id: int
    click_time: int
    conv_time: int
    click_payout: Units
    click_cpc: Units | None
    visitor_id: str
    transaction_id: str
    aff_network_id: int
    deleted: int
    revised_at: int


def click_rank(click: Click) -> tuple[bool, int, Click]:
    """Order of two reports of one click id, greatest wins: a campaign, the later revision, then the content itself."""
    return click.campaign_id != NO_CAMPAIGN, click.revised_at, click


def conversion_rank(conversion: Conversion) -> tuple[int, int, bool, Conversion]:
    """Order of two reports of one conversion id, greatest wins: the later revision, a deletion, then the content."""
    has_cpc = conversion.click_cpc is not None
    return conversion.revised_at, conversion.deleted, has_cpc, conversion


def is_rekeyed_click(standing: Click, other: Click) -> bool:
    """True if `other` moves the click to another user or campaign; from campaign 0 to a campaign is no move."""
    if standing.user_id != other.user_id:
        return True
    campaigns = {standing.campaign_id, other.campaign_id} - {NO_CAMPAIGN}
    return len(campaigns) > 1


def is_rekeyed_conversion(standing: Conversion, other: Conversion) -> bool:
    """True if `other` names another user, campaign or click under the same conversion id."""
    return (standing.user_id, standing.campaign_id, standing.click_id) != (
        other.user_id,
        other.campaign_id,
        other.click_id,
    )
