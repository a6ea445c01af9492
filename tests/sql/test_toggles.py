"""Multi-touch settings and what follows from them, and the removal of models, on both databases."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stream.core.toggles import Toggle, ToggleScope
from tables.sql.audit import Author
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore
from tables.sql.model_removal import ModelRemoval, delete_model
from tables.sql.model_store import ModelPlace, UnknownModel, read_configuration_rows
from tables.sql.setting_store import SettingChange, Switch, list_settings, set_multi_touch
from tables.sql.touchpoint_fitting import BATCH, Fitted
from tests.support.model_rows import audits, defaults, empty, fetch, run, store_model
from tests.support.sql_examples import advance, conversion, journey, touch

NOW = 1_800_000_000
USER = 7
AUTHOR = Author("ann", "cli")
HOUR = 1_700_002_800
GLOBAL = (ToggleScope.GLOBAL, 0)


@pytest.fixture(autouse=True)
async def _empty(database: Database) -> None:
    await empty(database)


async def switch(
    database: Database,
    *,
    to: bool,
    since: int = 100,
    scope: tuple[ToggleScope, int] = GLOBAL,
    evicted: list[int] | None = None,
) -> SettingChange:
    async def evict(conv_ids: Sequence[int]) -> None:
        if evicted is not None:
            evicted.extend(conv_ids)

    wanted = Switch(USER, *scope, to, since)
    return await set_multi_touch(database, wanted, AUTHOR, now=lambda: NOW, evict=evict)


async def said(database: Database) -> list[Toggle]:
    return list((await list_settings(database, USER)).history)


async def write(store: SqlFactStore, *conversions: tuple[int, dict[str, Any]]) -> None:
    """Conversions as a worker stores them; by id and fields."""
    taken = await store.take_over(0, owner="worker-1", topic_ids={}, partition_count=1, history_from=0)
    async with store.transaction() as transaction:
        await transaction.pass_fence(advance(epoch=taken.epoch), after_failure=False)
        journeys = [journey(conversion(conv_id, **fields)) for conv_id, fields in conversions]
        await transaction.write_journeys([each._replace(touches=(touch(1), touch(2))) for each in journeys])


async def shown(database: Database) -> list[int]:
    rows = await fetch(database, "SELECT DISTINCT conv_id FROM `202_conversion_touchpoints` ORDER BY conv_id")
    return [row[0] for row in rows]


async def test_a_setting_is_one_row_as_prosper202_writes_it(database: Database) -> None:
    await store_model(database, 3, is_active=0)
    await store_model(database, 4)
    await switch(database, to=False, since=100)
    await switch(database, to=True, since=200)
    change = await switch(database, to=False, since=300)
    assert (change.is_changed, change.superseded) == (True, [])
    columns = "scope_type, scope_id, model_id, multi_touch_enabled, multi_touch_enabled_at, multi_touch_disabled_at"
    rows = await fetch(database, f"SELECT {columns}, effective_at, updated_at FROM `202_attribution_settings`")
    assert rows == [("global", None, 4, 0, 200, 300, 300, NOW)]
    assert await said(database) == [
        ("global", 0, 100, False),
        ("global", 0, 200, True),
        ("global", 0, 300, False),
    ]
    written = await audits(database)
    assert [action for action, _, _ in written] == ["settings_update"] * 3
    metadata = written[-1][2]
    assert (metadata["actor"], metadata["source"]) == ("ann", "cli")
    assert (metadata["before"]["multi_touch_enabled"], metadata["after"]["multi_touch_enabled"]) == (True, False)


async def test_what_another_hand_had_set_stays_in_the_history(database: Database) -> None:
    """Also of several global rows, which its unique key lets through (D41)."""
    await run(
        database,
        "INSERT INTO `202_attribution_settings` (user_id, scope_type, scope_id, model_id, multi_touch_enabled,"
        " multi_touch_enabled_at, multi_touch_disabled_at, effective_at, created_at, updated_at) VALUES"
        " (7, 'global', NULL, 9, 0, NULL, 50, 50, 1, 1), (7, 'global', NULL, 9, 1, 60, NULL, 60, 1, 1)",
    )
    await switch(database, to=False, since=100)
    assert await said(database) == [("global", 0, 50, False), ("global", 0, 60, True), ("global", 0, 100, False)]
    assert await fetch(database, "SELECT COUNT(*), MAX(model_id) FROM `202_attribution_settings`") == [(1, 9)]


async def test_an_earlier_since_supersedes_what_was_said_of_later_times(database: Database) -> None:
    await switch(database, to=True, since=100)
    await switch(database, to=False, since=200)
    change = await switch(database, to=False, since=50)
    assert [each.since for each in change.superseded] == [100, 200]
    assert await said(database) == [("global", 0, 50, False)]


async def test_what_is_so_already_is_not_written_again(database: Database) -> None:
    await switch(database, to=False, since=100)
    change = await switch(database, to=False, since=200)
    assert (change.is_changed, change.since) == (False, 100)
    assert len(await audits(database)) == 1
    assert await said(database) == [("global", 0, 100, False)]


async def test_touchpoints_follow_the_setting_by_scope_and_time(database: Database, store: SqlFactStore) -> None:
    """Vectors SE-1 to SE-4: what the reference purges and hydrates."""
    late = {"conv_time": HOUR + 100}
    await write(
        store,
        (1, {"conv_time": HOUR + 99}),
        (2, late),
        (3, late | {"campaign_id": 99}),
        (4, late | {"user_id": 8}),
    )
    evicted: list[int] = []
    change = await switch(database, to=False, since=HOUR + 100, evicted=evicted)
    assert (await shown(database), evicted, change.fitted) == ([1, 4], [2, 3], Fitted(2, 2, 0))
    change = await switch(database, to=True, since=HOUR, scope=(ToggleScope.CAMPAIGN, 99))
    assert (await shown(database), change.fitted) == ([1, 3, 4], Fitted(1, 0, 1))
    change = await switch(database, to=True, since=HOUR + 100, scope=(ToggleScope.ADVERTISER, 5))
    assert (await shown(database), change.fitted) == ([1, 2, 3, 4], Fitted(2, 0, 1))
    rows = await fetch(
        database, "SELECT click_id, position FROM `202_conversion_touchpoints` WHERE conv_id = 2 ORDER BY position"
    )
    assert rows == [(1, 0), (2, 1)]


async def test_a_killed_change_is_repeated_and_touchpoints_that_are_right_stay(
    database: Database, store: SqlFactStore
) -> None:
    conversions = [(number, {"conv_time": HOUR + number}) for number in range(1, BATCH + 8)]
    await write(store, *conversions)

    class Killed(Exception):
        pass

    async def die(_: Sequence[int]) -> None:
        raise Killed

    with pytest.raises(Killed):
        await set_multi_touch(
            database, Switch(USER, *GLOBAL, is_enabled=False, since=HOUR), AUTHOR, now=lambda: NOW, evict=die
        )
    assert len(await shown(database)) == 7
    change = await switch(database, to=False, since=NOW)
    assert (change.is_changed, change.fitted) == (False, Fitted(BATCH + 7, 7, 0))
    assert await shown(database) == []
    ids = "SELECT MIN(touchpoint_id), COUNT(*) FROM `202_conversion_touchpoints`"
    await switch(database, to=True, since=HOUR)
    before = await fetch(database, ids)
    again = await switch(database, to=True, since=HOUR)
    assert (again.fitted, await fetch(database, ids)) == (Fitted(BATCH + 7, 0, 0), before)


async def test_a_worker_shows_no_touchpoints_where_multi_touch_is_off(database: Database, store: SqlFactStore) -> None:
    await switch(database, to=False, since=HOUR + 100)
    await write(store, (1, {"conv_time": HOUR + 99}), (2, {"conv_time": HOUR + 100}))
    assert await shown(database) == [1]
    ((touches,),) = await fetch(database, "SELECT touches FROM `202_stream_journeys` WHERE conv_id = 2")
    assert len(json.loads(touches)) == 2


async def test_a_chunk_under_way_is_waited_for(database: Database, store: SqlFactStore) -> None:
    """It may have read what counted before: its rows are looked at after it."""
    taken = await store.take_over(0, owner="worker-1", topic_ids={}, partition_count=1, history_from=0)
    async with store.transaction() as transaction:
        await transaction.pass_fence(advance(epoch=taken.epoch), after_failure=False)
        await transaction.write_journeys([journey(conversion(1))])
        waiting = asyncio.create_task(switch(database, to=False, since=0))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
    assert (await waiting).fitted.hidden == 1
    assert await shown(database) == []


async def _hour_with_credits(database: Database, model_id: int, date_hour: int) -> None:
    number = model_id * 10
    values = f"{USER}, 'global', NULL, {date_hour}, 0, 0, 1"
    scoped = f"{USER}, 'campaign', 70, {date_hour}, 0, 0, 1"
    columns = (
        "snapshot_id, model_id, user_id, scope_type, scope_id, date_hour, lookback_start, lookback_end, created_at"
    )
    first = (date_hour - HOUR) // 3600 * 100 + number
    await run(
        database,
        f"INSERT INTO `202_attribution_snapshots` ({columns}) VALUES"
        f" ({first}, {model_id}, {values}), ({first + 1}, {model_id}, {scoped})",
        "INSERT INTO `202_attribution_touchpoints` (snapshot_id, conv_id, click_id, position, credit, weight,"
        f" created_at) VALUES ({first}, 1, 1, 0, 0.5, 0.5, 1), ({first}, 1, 2, 1, 0.5, 0.5, 1)",
    )


async def _stored(database: Database) -> None:
    """Model 5, the default, in two hours, and model 6 in one of them."""
    await store_model(database, 5, is_default=1)
    await store_model(database, 6)
    for model_id, date_hour in ((5, HOUR), (5, HOUR + 3600), (6, HOUR)):
        await _hour_with_credits(database, model_id, date_hour)
    await run(
        database,
        "INSERT INTO `202_stream_hours` (user_id, date_hour, revision, published_revision, is_settled, fired_at)"
        f" VALUES (7, {HOUR}, 3, 3, 1, 1)",
        "INSERT INTO `202_aff_campaigns` (aff_campaign_id, user_id, aff_network_id, aff_campaign_name,"
        " aff_campaign_url, aff_campaign_payout, aff_campaign_time, aff_campaign_foreign_payout, attribution_model_id)"
        " VALUES (70, 7, 1, 'a', 'b', 1, 1, 1, 5), (71, 7, 1, 'a', 'b', 1, 1, 1, 6)",
    )


async def delete(database: Database, tell: Callable[[str], object] = lambda _: None) -> ModelRemoval:
    return await delete_model(database, ModelPlace(USER, 5), AUTHOR, now=lambda: NOW, tell=tell)


async def test_a_deleted_model_goes_with_all_that_names_it(database: Database) -> None:
    """Vectors SL-3 and SE-6; the latter a defect of the reference: there multi-touch turns on again (D41)."""
    await _stored(database)
    await switch(database, to=False, since=100)
    removal = await delete(database)
    assert (removal.campaigns, removal.hours) == ([70], 2)
    assert removal.default is not None
    assert removal.default.model_id == 6
    assert await defaults(database) == [6]
    assert await fetch(database, "SELECT model_id FROM `202_attribution_models`") == [(6,)]
    assert await fetch(database, "SELECT DISTINCT model_id FROM `202_attribution_snapshots`") == [(6,)]
    assert await fetch(database, "SELECT DISTINCT snapshot_id FROM `202_attribution_touchpoints`") == [(60,)]
    assert await fetch(
        database, "SELECT aff_campaign_id, attribution_model_id FROM `202_aff_campaigns` ORDER BY 1"
    ) == [(70, None), (71, 6)]
    settings = await fetch(database, "SELECT model_id, multi_touch_enabled FROM `202_attribution_settings`")
    assert settings == [(0, 0)]
    async with database.reading() as connection:
        assert (await read_configuration_rows(connection, [USER]))[USER][1] == [("global", 0, 100, False)]
    action, model_id, metadata = (await audits(database))[-1]
    assert (action, model_id, metadata["after"], metadata["campaigns"]) == ("model_delete", 5, None, [70])
    assert metadata["before"]["is_default"] is True


async def test_what_was_published_of_a_deleted_model_leaves_its_keys(database: Database) -> None:
    await _stored(database)
    await delete(database)
    hours = await fetch(database, "SELECT date_hour, revision, published_revision, is_settled FROM `202_stream_hours`")
    assert hours == [(HOUR, 4, 3, 0)]
    removals = await fetch(
        database, "SELECT user_id, date_hour, kind, record_key FROM `202_stream_removals` ORDER BY record_key"
    )
    assert removals == [
        (7, HOUR, "credit", f"7:5:{HOUR}:1:0"),
        (7, HOUR, "credit", f"7:5:{HOUR}:1:1"),
        (7, HOUR, "snapshot", f"7:5:{HOUR}:campaign:70"),
        (7, HOUR, "snapshot", f"7:5:{HOUR}:global:0"),
    ]


async def test_a_killed_deletion_is_repeated_with_one_audit_row(database: Database) -> None:
    await _stored(database)

    class Killed(Exception):
        pass

    def die(_: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        await delete(database, tell=die)
    half = "SELECT DISTINCT date_hour FROM `202_attribution_snapshots` WHERE model_id = 5"
    assert await fetch(database, half) == [(HOUR + 3600,)]
    assert await fetch(database, "SELECT is_active FROM `202_attribution_models` WHERE model_id = 5") == [(0,)]
    assert (await delete(database)).hours == 1
    assert await fetch(database, "SELECT 1 FROM `202_attribution_models` WHERE model_id = 5") == []
    assert [action for action, _, _ in await audits(database)] == ["model_delete"]
    with pytest.raises(UnknownModel):
        await delete(database)
