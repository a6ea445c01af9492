"""What an installation has of hours is kept, each row once; and a database of the release before gets what it lacks."""

import sqlite3
from types import ModuleType

import pytest
from sqlalchemy import Connection

from tables.sql import additions, doubles, views
from tables.sql.upgrade import schema_differences, upgrade_schema
from tests.support.rows import query
from tests.support.servers import run_sql

_PLACE = "attributed_clicks, attributed_conversions, lookback_start, lookback_end, created_at"
SNAPSHOTS = f"""
INSERT INTO `202_attribution_snapshots`
  (snapshot_id, model_id, user_id, scope_type, scope_id, date_hour, {_PLACE}) VALUES
  (1, 1, 7, 'global', NULL, 3600, 1, 1, 0, 0, 0),
  (2, 1, 7, 'global', NULL, 3600, 2, 1, 0, 0, 0),
  (3, 1, 7, 'global', 0, 3600, 3, 1, 0, 0, 0),
  (4, 1, 7, 'global', NULL, 7200, 4, 1, 0, 0, 0),
  (5, 2, 7, 'global', NULL, 3600, 5, 1, 0, 0, 0),
  (6, 1, 7, 'campaign', 70, 3600, 6, 1, 0, 0, 0),
  (7, 1, 7, 'campaign', 71, 3600, 7, 1, 0, 0, 0),
  (8, 1, 7, 'campaign', 70, 3600, 8, 1, 0, 0, 0);
"""
CREDITS = """
INSERT INTO `202_attribution_touchpoints`
  (touchpoint_id, snapshot_id, conv_id, click_id, position, credit, weight, created_at) VALUES
  (1, 1, 5, 9, 0, 1, 1, 0), (2, 2, 5, 9, 0, 1, 1, 0), (3, 3, 5, 9, 0, 0.5, 0.5, 0), (4, 3, 5, 9, 1, 0.5, 0.5, 0),
  (5, 4, 6, 9, 0, 1, 1, 0), (6, 4, 6, 9, 0, 1, 1, 0), (7, 5, 6, 9, 0, 1, 1, 0);
"""
# As the release before left it: its version, nothing of the hours.
BEFORE = (
    "DROP VIEW `202_bi_attribution_hourly`",
    "DROP VIEW `202_bi_attribution_credits`",
    "DROP TABLE `202_stream_hours`",
    "DROP TABLE `202_stream_credited`",
    "DROP TABLE `202_stream_removals`",
    "DROP TABLE `202_stream_runs`",
    "DROP TABLE `202_stream_toggles`",
    "DROP TABLE `202_stream_accounts`",
    "ALTER TABLE `202_stream_progress` DROP COLUMN drained_at",
)
WITHOUT_KEYS = {
    "sqlite": (
        "DROP INDEX `202_attribution_snapshots_natural_key`",
        "DROP INDEX `202_attribution_touchpoints_natural_key`",
        "ALTER TABLE `202_attribution_snapshots` DROP COLUMN scope_key",
    ),
    "mysql": (
        "ALTER TABLE `202_attribution_snapshots` DROP KEY natural_key, DROP COLUMN scope_key",
        "ALTER TABLE `202_attribution_touchpoints` DROP KEY natural_key",
    ),
}
VERSION = "UPDATE `202_stream_schema_version` SET version_num = '0001'"


def run(url: str, *statements: str) -> None:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.partition(":///")[2]) as connection:
            connection.executescript(";".join(statements))
        connection.close()
    else:
        run_sql(url, f"USE {url.rpartition('/')[2].partition('?')[0]}; {';'.join(statements)}")


async def test_a_database_of_0003_gets_what_readers_need_and_its_view_anew(fresh_database: str) -> None:
    await upgrade_schema(fresh_database)
    run(
        fresh_database,
        "DROP VIEW `202_bi_attribution_credits`",
        *(f"ALTER TABLE `202_stream_credited` DROP COLUMN {column}" for column in ("payout", "cost", "conv_time")),
        "CREATE VIEW `202_bi_attribution_credits` AS SELECT conv_id FROM `202_attribution_touchpoints`",
        "INSERT INTO `202_stream_credited` VALUES (5, 7, 3600, 1)",
        VERSION.replace("0001", "0003"),
    )
    assert len(await schema_differences(fresh_database)) == 3
    await upgrade_schema(fresh_database)
    assert await schema_differences(fresh_database) == []
    assert query(fresh_database, "SELECT version, payout FROM `202_stream_credited`") == [(1, None)]
    assert query(fresh_database, "SELECT attributed_revenue FROM `202_bi_attribution_credits`") == []


async def test_a_database_of_0004_knows_the_greatest_version_of_its_journeys(fresh_database: str) -> None:
    await upgrade_schema(fresh_database)
    columns = "topic_group, partition_id, next_offsets, topic_ids, updated_at"
    run(
        fresh_database,
        "ALTER TABLE `202_stream_progress` DROP COLUMN greatest_version",
        *(
            f"INSERT INTO `202_stream_progress` ({columns}) VALUES ('journeys', {number}, '{{}}', '{{}}', 1)"
            for number in (0, 1)
        ),
        "INSERT INTO `202_stream_credited` (conv_id, user_id, date_hour, version) VALUES (5, 7, 3600, 3)",
        VERSION.replace("0001", "0004"),
    )
    await upgrade_schema(fresh_database)
    assert await schema_differences(fresh_database) == []
    assert query(fresh_database, "SELECT greatest_version FROM `202_stream_progress`") == [(3,), (3,)]


async def test_a_database_of_0005_gets_the_key_that_holds_whole_touches(fresh_database: str) -> None:
    await upgrade_schema(fresh_database)
    narrow = "(user_id, campaign_id, visitor_id, click_time, click_id)"
    change = {
        "mysql": [f"ALTER TABLE `202_stream_clicks` DROP KEY newest_of_key, ADD KEY newest_of_key {narrow}"],
        "sqlite": [
            "DROP INDEX `202_stream_clicks_newest_of_key`",
            f"CREATE INDEX `202_stream_clicks_newest_of_key` ON `202_stream_clicks` {narrow}",
        ],
    }
    run(fresh_database, *change[fresh_database.partition("+")[0]], VERSION.replace("0001", "0005"))
    assert len(await schema_differences(fresh_database)) == 1
    await upgrade_schema(fresh_database)
    assert await schema_differences(fresh_database) == []


async def release_before(url: str, *more: str) -> None:
    await upgrade_schema(url)
    run(url, *BEFORE, *WITHOUT_KEYS[url.partition("+")[0]], VERSION, *more)


def assert_each_row_once(url: str) -> None:
    assert query(url, "SELECT snapshot_id, scope_key FROM `202_attribution_snapshots` ORDER BY 1") == [
        (3, 0),
        (4, 0),
        (5, 0),
        (7, 71),
        (8, 70),
    ]
    assert query(url, "SELECT touchpoint_id FROM `202_attribution_touchpoints` ORDER BY 1") == [(3,), (4,), (6,), (7,)]


async def test_of_doubled_rows_the_newest_stays_with_its_credits(fresh_database: str) -> None:
    await release_before(fresh_database, SNAPSHOTS, CREDITS)
    await upgrade_schema(fresh_database)
    assert_each_row_once(fresh_database)
    assert await schema_differences(fresh_database) == []
    assert query(fresh_database, "SELECT version_num FROM `202_stream_schema_version`") == [("0006",)]


async def test_rows_of_the_release_before_are_kept(fresh_database: str) -> None:
    progress = (
        "INSERT INTO `202_stream_progress` (topic_group, partition_id, epoch, next_offsets, topic_ids, updated_at)"
        " VALUES ('journeys', 0, 3, '{}', '{}', 1)"
    )
    await release_before(fresh_database, progress)
    await upgrade_schema(fresh_database)
    assert query(fresh_database, "SELECT epoch, drained_at FROM `202_stream_progress`") == [(3, 0)]


async def test_an_installation_of_the_old_system_gets_its_rows_settled(fresh_database: str) -> None:
    """Its tables without any of ours, and without a version."""
    await release_before(fresh_database, SNAPSHOTS, CREDITS, "DROP TABLE `202_stream_schema_version`")
    own = ["202_stream_progress", "202_stream_clicks", "202_stream_journeys"]
    run(fresh_database, *(f"DROP TABLE `{relation}`" for relation in own))
    await upgrade_schema(fresh_database)
    assert_each_row_once(fresh_database)
    assert await schema_differences(fresh_database) == []


STEPS: dict[str, ModuleType] = {"remove_doubles": doubles, "add_missing": additions, "create_views": views}


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize("step", list(STEPS))
async def test_an_upgrade_that_was_killed_is_repeated(
    step: str, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await release_before(fresh_database, SNAPSHOTS, CREDITS)
    module = STEPS[step]  # Alembic runs the migration's file anew each time, which takes its steps from there
    work = getattr(module, step)

    def killed(connection: Connection) -> None:
        work(connection)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(module, step, killed)
        with pytest.raises(Killed):
            await upgrade_schema(fresh_database)
    await upgrade_schema(fresh_database)
    assert_each_row_once(fresh_database)
    assert await schema_differences(fresh_database) == []


async def test_killed_between_credits_and_snapshots_of_doubles(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await release_before(fresh_database, SNAPSHOTS, CREDITS)
    delete = doubles._delete

    def killed(connection: Connection, relation: str, *place: object) -> None:
        delete(connection, relation, *place)  # type: ignore[arg-type]  # passed on as they came
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(doubles, "_delete", killed)
        with pytest.raises(Killed):
            await upgrade_schema(fresh_database)
    await upgrade_schema(fresh_database)
    assert_each_row_once(fresh_database)


async def test_missing_views_and_columns_are_named(fresh_database: str) -> None:
    await release_before(fresh_database)
    found = await schema_differences(fresh_database)
    assert "view 202_bi_attribution_hourly is missing" in found
    assert "view 202_bi_attribution_credits is missing" in found
    assert "column 202_attribution_snapshots.scope_key is missing" in found
    assert any("natural_key of 202_attribution_touchpoints is missing" in line for line in found)


async def test_views_of_an_earlier_release_are_replaced(fresh_database: str) -> None:
    old = "CREATE VIEW `202_bi_attribution_hourly` AS SELECT 1 AS one"
    await release_before(fresh_database, old)
    await upgrade_schema(fresh_database)
    assert query(fresh_database, "SELECT COUNT(roi) FROM `202_bi_attribution_hourly`") == [(0,)]
