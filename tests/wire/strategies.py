"""Events and almost-events for property tests."""

import json
from collections.abc import Mapping

from hypothesis import strategies as st

from stream.core.events import Click, Conversion
from stream.core.money import Units
from stream.wire import limits

_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=255).map(str.strip)
_medium = st.integers(0, limits.MEDIUMINT)
_known = st.integers(1, limits.MEDIUMINT)
_cpc = st.integers(-limits.CPC_UNITS, limits.CPC_UNITS).map(Units)
_flags = st.integers(0, 1)

clicks = st.builds(
    Click,
    click_id=st.integers(1, limits.BIGINT),
    user_id=_known,
    campaign_id=_medium,
    click_time=st.integers(0, limits.CLICK_TIME),
    click_cpc=_cpc,
    visitor_id=_texts,
    ppc_account_id=_medium,
    ppc_network_id=_medium,
    landing_page_id=_medium,
    text_ad_id=_medium,
    aff_network_id=_medium,
    click_bot=_flags,
    click_filtered=_flags,
    revised_at=st.integers(0, limits.INT),
)

conversions = st.builds(
    Conversion,
    conv_id=st.integers(1, limits.INT),
    click_id=st.integers(1, limits.BIGINT),
    user_id=_known,
    campaign_id=_known,
    click_time=st.integers(0, limits.CONVERSION_TIME),
    conv_time=st.integers(0, limits.CONVERSION_TIME),
    click_payout=st.integers(-limits.PAYOUT_UNITS, limits.PAYOUT_UNITS).map(Units),
    click_cpc=st.none() | _cpc,
    visitor_id=_texts,
    transaction_id=_texts,
    aff_network_id=_medium,
    deleted=_flags,
    revised_at=st.integers(0, limits.INT),
)

# JSON text of one value, so that numbers come in every way of writing them.
_EDGES = """
    0 1 -1 2 -0 0.0 -0.0 1.0 1e0 10e-1 1.5 1e3 16777215 16777216 2147483647 2147483648 4294967295 4294967296
    4294967295.0 9223372036854775807 9223372036854775808 9223372036854775807.0 99.99999 -99.99999 99.999990
    99.999991 100 0.00001 0.000010 0.000001 1e-5 1e-6 999999.99999 1000000 -999999.99999 1E+400 1E-400
    0.1000000000000000000000000000000000000001 01 +1 .5 1. NaN Infinity true false null [] {} [1]
    "" "0" "1" "1.5" "-1.5" "1." ".5" "+1" "01.50" "1e1" "\\t1\\u00a0" "1_0" "1.000000" "1.0000001" "99.99999"
    "100" "\u0661" "NaN" "Infinity" "a" "\\ta\\n" "\\u0000" "a\\u0000b" "\\u00a0x\\u2003" "\\ud800"
    "\\ud83d\\ude00" "\\n" "1\\n" "\\u0031" "\x7f" "\x01" "\\u001fx"
"""
_edges = st.sampled_from(_EDGES.split())
_generated = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(json.dumps),
    st.decimals(allow_nan=False, allow_infinity=False, places=5, min_value=-1100000, max_value=1100000).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-110, max_value=110).map(str),
    st.text(max_size=300).map(json.dumps),
    st.integers(250, 260).map(lambda length: json.dumps(" " + "é" * length)),
)
_values = _edges | _generated


def _object_text(fields: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}"


def near_valid(names: tuple[str, ...], valid: Mapping[str, str]) -> st.SearchStrategy[str]:
    """JSON text of an event of `valid` fields in which some fields are replaced, removed or new."""
    changes = st.dictionaries(st.sampled_from(names) | st.text(max_size=5), _values | st.none(), max_size=4)

    def changed(replaced: dict[str, str | None]) -> str:
        fields = {**valid, **replaced}
        return _object_text({name: value for name, value in fields.items() if value is not None})

    return changes.map(changed)


_LEAST_CLICK = {"click_id": "5", "user_id": "7", "campaign_id": "3", "click_time": "1790000000"}
_LEAST_CONVERSION = {**_LEAST_CLICK, "conv_id": "9", "conv_time": "1790000600", "click_payout": "12.5"}

near_clicks = near_valid(Click._fields, _LEAST_CLICK)
near_conversions = near_valid(Conversion._fields, _LEAST_CONVERSION)
