"""Our own tables: where partitions stand, clicks as facts, journeys as they came out, hours, runs by hand."""

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
    numbered,
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
        required("outside_changes", BIG, 0),
        required("drained_at", INT, 0),  # when all its topics had last been read to their ends
        required("greatest_version", INT, 1),  # of any journey ever written, so that none comes twice
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
        # All that a journey takes of a click: each of them would be a page of its own to be fetched otherwise.
        key(
            "newest_of_key",
            "user_id",
            "campaign_id",
            "visitor_id",
            "click_time",
            "click_id",
            "click_bot",
            "ppc_account_id",
            "ppc_network_id",
            "landing_page_id",
            "text_ad_id",
        ),
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
        required("purged", FLAG, 0),
        required("updated_at", INT),
        PrimaryKeyConstraint("conv_id"),
        key("click_lookup", "click_id"),
        key("conversions_of_key", "user_id", "campaign_id", "journey_visitor_id", "conv_time"),
        key("user_hour", "user_id", "date_hour"),
    ),
    # Locked by whoever changes hours, models or settings of an account; docs/decisions/0009.
    declared(
        "202_stream_accounts",
        required("user_id", MEDIUM),
        required("updated_at", INT),
        PrimaryKeyConstraint("user_id"),
    ),
    declared(
        "202_stream_hours",
        required("user_id", MEDIUM),
        required("date_hour", INT),
        required("revision", BIG, 0),
        required("published_revision", BIG, 0),
        required("configuration", BIG, 0),  # digest of the models and settings that it was computed with
        required("is_final", FLAG, 0),
        required("is_settled", FLAG, 0),  # final and published
        optional("problems", MEDIUM_TEXT),  # JSON object: reason by model id
        required("fired_at", INT),
        PrimaryKeyConstraint("user_id", "date_hour"),
        key("unsettled", "is_settled", "date_hour"),
    ),
    declared(
        "202_stream_credited",
        required("conv_id", INT_11),
        required("user_id", MEDIUM),
        required("date_hour", INT),  # where its credits stand
        required("version", INT),  # of the journey that they are of
        # What they share out, for readers: the journey changes before its hour does. NULL: written before 0004.
        optional("payout", amount(11, 5)),
        optional("cost", amount(7, 5)),
        optional("conv_time", INT),
        PrimaryKeyConstraint("conv_id"),
        key("user_hour", "user_id", "date_hour"),
    ),
    # Records of the topics that must become tombstones; docs/decisions/0010.
    declared(
        "202_stream_removals",
        numbered("removal_id", BIG),
        required("user_id", MEDIUM),
        required("date_hour", INT),
        required("kind", exact_varchar(16)),
        required("record_key", exact_varchar(190)),
        key("user_hour", "user_id", "date_hour"),
    ),
    # Multi-touch settings by the time of the conversion; docs/decisions/0012.
    declared(
        "202_stream_toggles",
        required("user_id", MEDIUM),
        required("scope_type", exact_varchar(16)),
        required("scope_id", BIG),  # 0: global
        required("since", INT),
        required("is_enabled", FLAG),
        PrimaryKeyConstraint("user_id", "scope_type", "scope_id", "since"),
    ),
    declared(
        "202_stream_runs",
        numbered("run_id", BIG),
        required("kind", exact_varchar(16)),
        required("user_id", MEDIUM),
        required("range_start", INT),
        required("range_end", INT),
        required("configuration", BIG, 0),
        required("state", exact_varchar(16)),
        required("owner", exact_varchar(255)),
        required("lease_until", INT),
        required("hours_done", INT, 0),
        required("hours_total", INT, 0),
        optional("arguments", MEDIUM_TEXT),  # JSON object: what else was asked for
        optional("error", MEDIUM_TEXT),
        required("started_at", INT),
        optional("finished_at", INT),
        key("window", "kind", "user_id", "range_start", "range_end"),
    ),
    # How far a run has come, where another may go on from there.
    declared(
        "202_stream_run_places",
        required("run_id", BIG),
        required("partition_id", INT),
        required("place", MEDIUM_TEXT),  # JSON object
        PrimaryKeyConstraint("run_id", "partition_id"),
    ),
    # How far the tables of an existing installation were read into the topics.
    declared(
        "202_stream_imports",
        required("source", exact_varchar(190)),  # its address, without user and password
        required("place", MEDIUM_TEXT),  # JSON object
        required("updated_at", INT),
        PrimaryKeyConstraint("source"),
    ),
)
