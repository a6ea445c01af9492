"""From nothing, and from an installation that has been running for years."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from stream.core.errors import Misconfigured, Unavailable
from tables.sql.upgrade import schema_differences, upgrade_schema
from tests.support.rows import query
from tests.support.servers import run_sql

# As the installer of an older release left it: no multi-touch columns, another collation, no unique key.
OLD_INSTALLATION = """
CREATE TABLE `202_conversion_logs` (
  conv_id int(11) unsigned NOT NULL AUTO_INCREMENT, click_id bigint(20) unsigned NOT NULL,
  transaction_id varchar(255) DEFAULT NULL, campaign_id mediumint(8) unsigned NOT NULL,
  click_payout decimal(11,5) NOT NULL, user_id mediumint(8) unsigned NOT NULL, click_time int(10) NOT NULL,
  conv_time int(10) NOT NULL, time_difference text NOT NULL, ip varchar(15) NOT NULL DEFAULT '',
  pixel_type int(11) unsigned NOT NULL, user_agent text NOT NULL, deleted tinyint(4) NOT NULL DEFAULT 0,
  PRIMARY KEY (conv_id), KEY campaign_id (campaign_id), KEY user_id (user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `202_conversion_logs` VALUES
  (1, 11, 'Order-1', 70, 12.5, 7, 1700000000, 1700000100, '100', '', 0, 'x', 0),
  (2, 12, NULL, 70, 1, 7, 1700000000, 1700000100, '100', '', 0, 'x', 1);
CREATE TABLE `202_attribution_settings` (
  setting_id bigint(20) unsigned NOT NULL AUTO_INCREMENT, user_id mediumint(8) unsigned NOT NULL,
  scope_type varchar(50) NOT NULL, scope_id bigint(20) unsigned DEFAULT NULL, model_id bigint(20) unsigned NOT NULL,
  effective_at int(10) unsigned NOT NULL, created_at int(10) unsigned NOT NULL, updated_at int(10) unsigned NOT NULL,
  PRIMARY KEY (setting_id), UNIQUE KEY user_scope (user_id, scope_type, scope_id), KEY model_lookup (model_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
INSERT INTO `202_attribution_settings` VALUES (5, 7, 'global', NULL, 3, 1, 1, 1);
CREATE TABLE somebody_elses (id int PRIMARY KEY);
"""
DOUBLE = """INSERT INTO `202_conversion_logs` VALUES
  (3, 11, 'Order-1', 70, 12.5, 7, 1700000000, 1700000100, '100', '', 0, 'x', 0);"""


def install(url: str, script: str = OLD_INSTALLATION) -> None:
    name = url.rpartition("/")[2].partition("?")[0]
    run_sql(url, f"USE {name}; {script}")


async def test_an_installation_keeps_its_rows_and_gets_what_is_missing(fresh_mariadb: str) -> None:
    install(fresh_mariadb)
    await upgrade_schema(fresh_mariadb)
    assert query(fresh_mariadb, "SELECT conv_id, transaction_id, deleted FROM `202_conversion_logs`") == [
        (1, "Order-1", 0),
        (2, None, 1),
    ]
    assert query(
        fresh_mariadb, "SELECT setting_id, multi_touch_enabled, multi_touch_enabled_at FROM `202_attribution_settings`"
    ) == [(5, 1, None)]
    assert query(fresh_mariadb, "SHOW TABLES LIKE 'somebody_elses'") == [("somebody_elses",)]
    assert query(fresh_mariadb, "SELECT COUNT(*) FROM `202_stream_journeys`") == [(0,)]


async def test_what_cannot_be_added_is_named_by_the_check(fresh_mariadb: str) -> None:
    install(fresh_mariadb, OLD_INSTALLATION + DOUBLE)
    await upgrade_schema(fresh_mariadb)
    assert await schema_differences(fresh_mariadb) == [
        "column 202_conversion_logs.ip is VARCHAR(15), should be VARCHAR(45)",
        "key uniq_click_transaction of 202_conversion_logs is missing",
    ]


async def test_transactions_of_an_installation_become_case_sensitive(fresh_mariadb: str) -> None:
    install(fresh_mariadb)
    await upgrade_schema(fresh_mariadb)
    assert query(fresh_mariadb, "SELECT conv_id FROM `202_conversion_logs` WHERE transaction_id = 'order-1'") == []


async def test_upgrading_again_changes_nothing(fresh_database: str) -> None:
    await upgrade_schema(fresh_database)
    await upgrade_schema(fresh_database)
    assert await schema_differences(fresh_database) == []


async def test_two_processes_can_upgrade_at_once(fresh_database: str) -> None:
    await asyncio.gather(*(upgrade_schema(fresh_database) for _ in range(4)))
    assert await schema_differences(fresh_database) == []
    assert query(fresh_database, "SELECT version_num FROM `202_stream_schema_version`") == [("0006",)]


async def test_an_empty_database_lacks_every_table(fresh_database: str) -> None:
    found = await schema_differences(fresh_database)
    assert "table 202_conversion_touchpoints is missing" in found
    assert all(line.startswith(("table ", "view ")) for line in found)


async def test_the_check_names_each_kind_of_difference(fresh_mariadb: str) -> None:
    await upgrade_schema(fresh_mariadb)
    install(
        fresh_mariadb,
        """
        DROP TABLE `202_bing`;
        ALTER TABLE `202_stream_clicks` DROP KEY newest_of_key, MODIFY visitor_id varchar(255) NOT NULL DEFAULT '';
        ALTER TABLE `202_stream_journeys` DROP COLUMN version, MODIFY click_id int unsigned NOT NULL;
        ALTER TABLE `202_conversion_touchpoints` MODIFY position smallint(5) unsigned DEFAULT 0;
        ALTER TABLE `202_attribution_models` DROP KEY model_slug_user, ADD KEY model_slug_user (user_id, model_slug);
        """,
    )
    assert set(await schema_differences(fresh_mariadb)) == {
        "table 202_bing is missing",
        "key newest_of_key of 202_stream_clicks is missing",
        "column 202_stream_clicks.visitor_id is VARCHAR(255), should be VARCHAR(255) utf8mb4_bin",
        "column 202_stream_journeys.version is missing",
        "column 202_stream_journeys.click_id is INT UNSIGNED, should be BIGINT UNSIGNED",
        "column 202_conversion_touchpoints.position takes NULL, should be the other way round",
        "key model_slug_user of 202_attribution_models is (user_id, model_slug),"
        " should be UNIQUE (user_id, model_slug)",
    }


async def test_the_folder_of_an_sqlite_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "t.db"
    await upgrade_schema(f"sqlite+aiosqlite:///{path}")
    with sqlite3.connect(path) as foreign:
        assert foreign.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    foreign.close()


@pytest.mark.parametrize(
    "url",
    ["nonsense", "postgresql://u:secret@h/d", "mysql+pymysql://u:secret@h/d", "mysql://u:secret@h/", "sqlite://"],
)
async def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        await upgrade_schema(url)
    assert "secret" not in str(refused.value)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await upgrade_schema("mysql://touchstream:touchstream@127.0.0.1:1/touchstream")
