"""Events with defaults, for tests that care about one or two fields."""

from typing import Any

from stream.core.events import Click, Conversion
from stream.core.money import Units

_CLICK = Click(
    click_id=1,
    user_id=1,
    campaign_id=11,
    click_time=1000,
    click_cpc=Units(0),
    visitor_id="",
    ppc_account_id=0,
    ppc_network_id=0,
    landing_page_id=0,
    text_ad_id=0,
    aff_network_id=0,
    click_bot=0,
    click_filtered=0,
    revised_at=0,
)
_CONVERSION = Conversion(
    conv_id=1,
    click_id=1,
    user_id=1,
    campaign_id=11,
    click_time=1000,
    conv_time=2000,
    click_payout=Units(1_000_000),
    click_cpc=None,
    visitor_id="",
    transaction_id="",
    aff_network_id=0,
    deleted=0,
    revised_at=0,
)


def click(click_id: int = 1, **fields: Any) -> Click:  # noqa: ANN401 - any field, of its own type
    return _CLICK._replace(click_id=click_id, **fields)


def conversion(conv_id: int = 1, **fields: Any) -> Conversion:  # noqa: ANN401 - any field, of its own type
    return _CONVERSION._replace(conv_id=conv_id, **fields)
