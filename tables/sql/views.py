"""Views for BI programs: names and columns that stay, whatever becomes of the tables behind them; docs/bi.md."""

from sqlalchemy import Connection, inspect, text

from tables.sql.addresses import MYSQL

HOURLY = "202_bi_attribution_hourly"
CREDITS = "202_bi_attribution_credits"
VIEWS = (HOURLY, CREDITS)

# FROM_UNIXTIME would depend on the session's time zone, and a plain text plus an interval would be a text again.
_HOUR_UTC = {
    MYSQL: "TIMESTAMP'1970-01-01 00:00:00' + INTERVAL s.date_hour SECOND",
    "sqlite": "datetime(s.date_hour, 'unixepoch')",
}

# SQLite holds decimals as floats: what is computed of them is rounded to the steps of the columns again.
_HOURLY = """
SELECT s.model_id, m.model_slug, m.model_name, m.model_type, s.user_id, s.scope_type, s.scope_id, s.date_hour,
       {hour_utc} AS hour_utc, s.attributed_clicks, s.attributed_conversions, s.attributed_revenue, s.attributed_cost,
       ROUND(s.attributed_revenue - s.attributed_cost, 4) AS profit,
       CASE WHEN s.attributed_cost > 0
            THEN ROUND((s.attributed_revenue - s.attributed_cost) * 100.0 / s.attributed_cost, 4) END AS roi,
       COALESCE(h.is_final, 0) AS is_final,
       CAST(COALESCE(h.revision, 0) AS UNSIGNED) AS revision
FROM `202_attribution_snapshots` s
LEFT JOIN `202_attribution_models` m ON m.model_id = s.model_id
LEFT JOIN `202_stream_hours` h ON h.user_id = s.user_id AND h.date_hour = s.date_hour
"""

# All touches of a journey are of its campaign; the time of a converting click is known from its conversion.
# Money and time are those that the totals took. A journey has newer ones until its hour is fired, and is asked where
# credits are of an earlier release, or of another system.
_CREDITS = """
SELECT s.model_id, m.model_slug, s.user_id, s.date_hour, {hour_utc} AS hour_utc, c.conv_id,
       COALESCE(d.conv_time, j.conv_time) AS conv_time, c.click_id, c.position, c.credit, c.weight,
       COALESCE(k.click_time, CASE WHEN c.click_id = j.click_id THEN j.click_time END) AS click_time,
       COALESCE(k.campaign_id, j.campaign_id) AS campaign_id, k.visitor_id, k.ppc_account_id, k.ppc_network_id,
       k.landing_page_id, k.text_ad_id, k.aff_network_id, k.click_cpc,
       COALESCE(d.payout, j.click_payout) AS click_payout,
       ROUND(c.credit * COALESCE(d.payout, j.click_payout), 10) AS attributed_revenue,
       ROUND(c.credit * COALESCE(d.cost, j.click_cpc), 10) AS attributed_cost
FROM `202_attribution_touchpoints` c
JOIN `202_attribution_snapshots` s ON s.snapshot_id = c.snapshot_id
LEFT JOIN `202_attribution_models` m ON m.model_id = s.model_id
LEFT JOIN `202_stream_credited` d ON d.conv_id = c.conv_id AND d.user_id = s.user_id AND d.date_hour = s.date_hour
LEFT JOIN `202_stream_journeys` j ON j.conv_id = c.conv_id
LEFT JOIN `202_stream_clicks` k ON k.click_id = c.click_id
"""
_SELECTS = {HOURLY: _HOURLY, CREDITS: _CREDITS}


def create_views(connection: Connection) -> None:
    """Or replace them, where they are of an earlier release."""
    dialect = connection.dialect.name
    for name, select in _SELECTS.items():
        if dialect != MYSQL:
            connection.execute(text(f"DROP VIEW IF EXISTS `{name}`"))
        verb = "CREATE OR REPLACE VIEW" if dialect == MYSQL else "CREATE VIEW"
        # The colons of the time would be parameters for text().
        connection.exec_driver_sql(f"{verb} `{name}` AS {select.format(hour_utc=_HOUR_UTC[dialect])}")


def missing_views(connection: Connection) -> list[str]:
    present = set(inspect(connection).get_view_names())
    return [name for name in VIEWS if name not in present]
