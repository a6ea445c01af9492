"""Our own tables: where partitions stand, clicks as facts, and journeys as they came out.

Later issues add hours and runs beside them.
"""

from sqlalchemy import PrimaryKeyConstraint

from tables.sql.columns import (
    BIG,
    FLAG,
    INT,
    INT_11,
    MEDIUM,
    MEDIUM_TEXT,
    amount,
    declared,
    exact_varchar,
    key,
    optional,
    required,
)

OWN_TABLES = (
    declared(
        "202_stream_progress",
        required("topic_group", exact_varchar(64)),
        required("partition_id", INT),
        required("epoch", BIG, 0),
        required("owner", exact_varchar(255), ""),
        required("partition_count", INT, 0),  # 0: never taken, or reset
        required("next_offsets", MEDIUM_TEXT),  # JSON object, by topic
        required("topic_ids", MEDIUM_TEXT),  # JSON object, by topic
        required("watermark", BIG, 0),
        required("newest_conversion", BIG, 0),
        required("history_from", BIG, 0),
        optional("unsettled_keys", MEDIUM_TEXT),  # JSON list
        required("updated_at", INT),
        PrimaryKeyConstraint("topic_group", "partition_id"),
    ),
    # The columns are the fields of stream.core.events.Click, in their order.
    declared(
        "202_stream_clicks",
        required("click_id", BIG),
        required("user_id", MEDIUM),
        required("campaign_id", MEDIUM),
        required("click_time", INT),
        required("click_cpc", amount(7, 5)),
        required("visitor_id", exact_varchar(255), ""),
        required("ppc_account_id", MEDIUM),
        required("ppc_network_id", MEDIUM),
        required("landing_page_id", MEDIUM),
        required("text_ad_id", MEDIUM),
        required("aff_network_id", MEDIUM),
        required("click_bot", FLAG),
        required("click_filtered", FLAG),
        required("revised_at", INT),
        PrimaryKeyConstraint("click_id"),
        key("newest_of_key", "user_id", "campaign_id", "visitor_id", "click_time", "click_id"),
    ),
    declared(
        "202_stream_journeys",
        required("conv_id", INT_11),
        required("click_id", BIG),
        required("user_id", MEDIUM),
        required("campaign_id", MEDIUM),
        required("click_time", INT),
        required("conv_time", INT),
        required("click_payout", amount(11, 5)),
        optional("own_click_cpc", amount(7, 5)),  # of the conversion; NULL: the click's
        required("own_visitor_id", exact_varchar(255), ""),
        required("transaction_id", exact_varchar(255), ""),
        required("own_aff_network_id", MEDIUM),
        required("deleted", FLAG),
        required("revised_at", INT),
        # From here on: what was made of it.
        required("journey_visitor_id", exact_varchar(255), ""),
        required("outcome", exact_varchar(16)),
        required("click_unknown", FLAG),
        required("incomplete", FLAG),
        required("click_cpc", amount(7, 5)),
        required("ppc_account_id", MEDIUM),
        required("aff_network_id", MEDIUM),
        required("touches", MEDIUM_TEXT),  # JSON list of lists, fields of stream.core.facts.Touch
        required("version", INT),
        required("date_hour", INT),
        required("updated_at", INT),
        PrimaryKeyConstraint("conv_id"),
        key("click_lookup", "click_id"),
        key("conversions_of_key", "user_id", "campaign_id", "journey_visitor_id", "conv_time"),
        key("user_hour", "user_id", "date_hour"),
    ),
)
