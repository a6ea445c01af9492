"""The database of a simulated system: SQLite in a file, behind the shipped writers, with chance before each statement.

The driver answers at once instead of from a thread, so that the seed alone decides who comes first.
"""

import asyncio
import contextlib
import json
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

from stream.agents.firing import HoursAtWork, Order, fire
from stream.agents.hour_ports import HourStore
from stream.agents.ports import FactStore
from stream.core.configuration import ModelRow, configuration_of
from stream.core.events import Click
from stream.core.hours import HourKey
from stream.core.keys import partition_of
from stream.core.progress import PartitionProgress
from stream.core.toggles import Toggle, ToggleScope
from stream.engine.barrier import patiently
from stream.replay.ports import ReplayStore
from tables.sql.addresses import SQLITE
from tables.sql.audit import Author
from tables.sql.connections import Connection, SqliteConnection
from tables.sql.database import Database
from tables.sql.facts import HOURS_GROUP, SqlFactStore, Writing
from tables.sql.hour_store import SqlHourStore
from tables.sql.model_store import ModelEdit, ModelPlace, NewModel, create_model, update_model
from tables.sql.purge_ranges import meant_by_ids
from tables.sql.purges import look_to_purge, purge_batch
from tables.sql.replays import SqlReplayStore
from tables.sql.setting_store import Switch, set_multi_touch
from tables.sql.upgrade import upgrade_schema
from tests.simulation.processes import Process, Steps
from tests.simulation.storage import JOURNEYS, Commit, Evict, Rows, ShownHour, ShownJourney
from tests.support import hour_oracle as oracle
from tests.support.hour_examples import DEFINITIONS
from tests.support.hour_oracle import Model
from tests.support.hour_rows import read_hours, torn_hours
from tests.support.row_locks import RowLocks
from tests.support.rows import read_journeys, read_touchpoints
from tests.support.traffic import DAY

_WORK = ("202_stream_clicks", "202_stream_journeys", "202_attribution_snapshots", "202_attribution_touchpoints")
_SETTLED = "PRAGMA synchronous=OFF"
_PROGRESS = (
    "SELECT partition_id, epoch, owner, next_offsets, partition_count, watermark, newest_conversion, outside_changes"
    " FROM `202_stream_progress` WHERE topic_group = ?"
)
_TOUCHES = "SELECT conv_id, click_id, click_time FROM `202_conversion_touchpoints` ORDER BY conv_id, position"
_JOURNEYS = (
    "SELECT conv_id, user_id, campaign_id, journey_visitor_id, conv_time, click_id, outcome, version"
    " FROM `202_stream_journeys` ORDER BY conv_id"
)
_SETTINGS = (
    "SELECT user_id, scope_type, scope_id, multi_touch_enabled, multi_touch_enabled_at, multi_touch_disabled_at"
    " FROM `202_attribution_settings`"
)
_TOGGLES = (
    "SELECT user_id, scope_type, COALESCE(scope_id, 0), since, is_enabled FROM `202_stream_toggles`"
    " UNION SELECT user_id, scope_type, COALESCE(scope_id, 0), COALESCE(CASE multi_touch_enabled WHEN 1"
    " THEN multi_touch_enabled_at ELSE multi_touch_disabled_at END, effective_at), multi_touch_enabled"
    " FROM `202_attribution_settings`"
)
_HOURS = "SELECT user_id, date_hour, revision, published_revision, is_final, configuration FROM `202_stream_hours`"


@cache
def template() -> bytes:
    """A file with our schema; made once a process."""
    with tempfile.TemporaryDirectory(prefix="touchstream-simulation-") as folder:
        path = Path(folder) / "template.db"
        asyncio.run(upgrade_schema(f"sqlite+aiosqlite:///{path}"))
        with contextlib.closing(sqlite3.connect(path)) as made:
            made.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


class _Cursor:
    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount

    async def close(self) -> None: ...


class _Driver:
    """In place of aiosqlite's connection."""

    def __init__(self, storage: "SqlStorage", owner: str, group: str) -> None:
        self.owner = owner
        self._storage = storage
        self._group = group
        self._connection = storage.idle.pop() if storage.idle else storage.connect()
        self._locked: set[int] = set()  # partitions whose rows of progress were locked
        self._moved: tuple[str, int | None, dict[str, int]] = ("", None, {})
        self._is_writing = False
        self._written: list[Any] = []

    async def execute_fetchall(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        await self._storage.step("sql:read")
        self._note(statement, parameters)
        return self._connection.execute(statement, parameters).fetchall()

    async def execute(self, statement: str, parameters: Sequence[Any]) -> _Cursor:
        if statement == "BEGIN IMMEDIATE":
            await self._storage.step(f"sql:begin of {self._group}")
            await self._storage.writer.take(self, "the only writer")
        elif statement == "COMMIT":
            return await self._commit()
        elif statement != "ROLLBACK":
            await self._storage.step("sql:write")
        cursor = self._connection.execute(statement, parameters)
        if cursor.rowcount:
            self._note(statement, parameters)
        if statement == "ROLLBACK":
            self._storage.writer.release(self)
        return _Cursor(cursor.rowcount)

    async def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> _Cursor:
        await self._storage.step("sql:write many")
        found = list(rows)
        self._is_writing |= any(name in statement for name in _WORK)
        if "202_stream_journeys`" in statement:
            names = statement[statement.index("(") + 1 : statement.index(")")].replace("`", "").split(",")
            places = [name.strip() for name in names]
            self._written += [dict(zip(places, row, strict=False)) for row in found]
        return _Cursor(self._connection.executemany(statement, found).rowcount)

    def _note(self, statement: str, parameters: Sequence[Any]) -> None:
        if "202_stream_progress" not in statement or not self._connection.in_transaction:
            return
        if statement.startswith("SELECT") and len(parameters) == 2:
            self._locked.add(parameters[1])
        elif "SET next_offsets" in statement:  # whatever it asks for of owner and epoch: that is what is audited
            self._locked.add(parameters[7])
            self._moved = parameters[6], parameters[7], json.loads(parameters[0])

    async def _commit(self) -> _Cursor:
        storage = self._storage
        await storage.step("sql:commit")
        for row in self._written:
            number = partition_of(row["user_id"], row["campaign_id"], storage.partitions)
            assert number in self._locked, "journeys without their partition's lock"
        self._connection.execute("COMMIT")
        storage.writer.release(self)
        group, partition, offsets = self._moved
        conv_ids = sorted(row["conv_id"] for row in self._written)
        storage.on_commit(Commit(self.owner, group, partition, offsets, conv_ids, self._is_writing))
        if group == HOURS_GROUP and self._is_writing:
            storage.on_hours()
        await storage.step("sql:committed")
        return _Cursor(0)

    def close(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._storage.idle.append(self._connection)


class _SimulatedDatabase(Database):
    """Its transactions are the shipped ones."""

    def __init__(self, storage: "SqlStorage", owner: str, group: str) -> None:
        self.dialect = SQLITE
        self._storage = storage
        self._owner = owner
        self._group = group
        self._writer = asyncio.Lock()

    async def close(self) -> None: ...

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        driver = _Driver(self._storage, self._owner, self._group)
        self._storage.drivers.append(driver)
        try:
            yield SqliteConnection(driver)
        finally:
            if driver in self._storage.drivers:  # else it was cut
                self._storage.drivers.remove(driver)
                driver.close()
                self._storage.writer.release(driver)


class SqlStorage:
    """Satisfies Storage."""

    hides_touches = True

    def __init__(self, step: Steps, users: Sequence[int], *, partitions: int, clock: Callable[[], int]) -> None:
        self.step = step
        self.partitions = partitions
        self.writer = RowLocks()
        self.drivers: list[_Driver] = []
        self.idle: list[sqlite3.Connection] = []
        self.on_commit: Callable[[Commit], None] = lambda _commit: None
        self.on_hours: Callable[[], None] = lambda: None
        self._users = users
        self._clock = clock
        self._folder = tempfile.TemporaryDirectory(prefix="touchstream-simulation-")
        self._file = Path(self._folder.name) / "it.db"
        self._file.write_bytes(template())
        self.url = f"sqlite+aiosqlite:///{self._file}"
        self._eyes = self.connect()
        self._copies = 0
        self._wanted: list[Switch] = []  # changes of settings that are not finished

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        connection.execute(_SETTLED)
        return connection

    def _writing(self, process: Process, **options: Any) -> Writing:  # noqa: ANN401
        return Writing(owner=process.name, clock=self._clock, **options)

    def facts(self, process: Process) -> FactStore:
        writing = self._writing(process, writes_conversion_logs=True)
        return SqlFactStore(_SimulatedDatabase(self, process.name, JOURNEYS), writing)

    def replays(self, process: Process) -> ReplayStore:
        writing = self._writing(process, writes_conversion_logs=True)
        return SqlReplayStore(_SimulatedDatabase(self, process.name, "replays"), writing, run_id=0)

    def hours(self, process: Process) -> HourStore:
        return self._hour_store(process)

    def _hour_store(self, process: Process) -> SqlHourStore:
        writing = self._writing(process, writes_conversion_logs=False, topic_group=HOURS_GROUP)
        return SqlHourStore(_SimulatedDatabase(self, process.name, HOURS_GROUP), writing, scopes="all")

    def cut_off(self, owner: str) -> None:
        for driver in [each for each in self.drivers if each.owner == owner]:
            self.drivers.remove(driver)
            driver.close()
            self.writer.abandon(driver)

    def progress(self, group: str) -> Mapping[int, PartitionProgress]:
        return {
            row[0]: PartitionProgress(
                row[0], row[1], row[2], json.loads(row[3]), row[4], {}, row[5], row[6], 0, (), row[7]
            )
            for row in self._eyes.execute(_PROGRESS, [group])
        }

    def journeys(self, conv_ids: Sequence[int] | None = None) -> list[ShownJourney]:
        touches: dict[int, list[tuple[int, int]]] = {}
        for conv_id, click_id, click_time in self._eyes.execute(_TOUCHES):
            touches.setdefault(conv_id, []).append((click_id, click_time))
        return [
            ShownJourney._make((*row, tuple(touches.get(row[0], ()))))
            for row in self._eyes.execute(_JOURNEYS)
            if conv_ids is None or row[0] in conv_ids
        ]

    def clicks(self) -> Sequence[Click]:
        columns = ", ".join(Click._fields)
        rows = self._eyes.execute(f"SELECT {columns} FROM `202_stream_clicks`")
        return [Click._make(row) for row in rows]

    def _model_rows(self) -> list[tuple[int, ModelRow]]:
        rows = self._eyes.execute(
            "SELECT user_id, model_id, model_type, weighting_config, is_active FROM `202_attribution_models`"
        )
        return [(row[0], ModelRow(row[1], row[2], row[3] or "", bool(row[4]))) for row in sorted(rows)]

    def hour_rows(self) -> Mapping[HourKey, ShownHour]:
        models, toggles = self._model_rows(), self._toggles()
        revisions = {
            user_id: configuration_of(
                [row for owner, row in models if owner == user_id],
                [toggle for owner, toggle in toggles if owner == user_id],
                scopes="all",
            ).revision
            for user_id in self._users
        }
        return {
            HourKey(row[0], row[1]): ShownHour(row[2], row[3], bool(row[4]), row[5] == revisions.get(row[0]))
            for row in sorted(self._eyes.execute(_HOURS))
        }

    def rows(self) -> Rows:
        logs = self._eyes.execute("SELECT conv_id FROM `202_conversion_logs` ORDER BY conv_id")
        return Rows(read_touchpoints(self.url), read_journeys(self.url), [row[0] for row in logs], read_hours(self.url))

    def configuration(self) -> tuple[list[Model], list[oracle.Switch]]:
        return [
            Model(user_id, row.model_id, row.type_name, json.loads(row.config_text or "{}"))
            for user_id, row in self._model_rows()
            if row.is_active
        ], [oracle.Switch(user_id, *toggle) for user_id, toggle in self._toggles()]

    def _toggles(self) -> list[tuple[int, Toggle]]:
        """What the rows of settings say, and what they said before."""
        found = {(row[0], *row[1:]) for row in self._eyes.execute(_TOGGLES)}
        return sorted(
            (user_id, Toggle(ToggleScope(scope), scope_id, since, bool(is_on)))
            for user_id, scope, scope_id, since, is_on in found
        )

    def torn(self) -> str:
        found = torn_hours(self.url)
        return f"torn: {found}" if found else ""

    def unaudited(self) -> str:
        """'' where what each model and setting is now stands as the result of the last change that was told of: I7."""
        return self._unaudited_models() or self._unaudited_settings()

    def _unaudited_settings(self) -> str:
        told: dict[tuple[int, str, int | None], dict[str, Any]] = {}
        statement = "SELECT user_id, metadata FROM `202_attribution_audit` WHERE action = ? ORDER BY audit_id"
        for user_id, metadata in self._eyes.execute(statement, ["settings_update"]):
            entry = json.loads(metadata)
            place = user_id, entry["after"]["scope"], entry["after"]["scope_id"]
            if not entry["actor"] or not entry["source"] or entry["before"] != told.get(place):
                return f"setting {place} was changed without an audit row before {entry}"
            told[place] = entry["after"]
        rows = {(row[0], row[1], row[2]): (bool(row[3]), row[4], row[5]) for row in self._eyes.execute(_SETTINGS)}
        names = ("multi_touch_enabled", "multi_touch_enabled_at", "multi_touch_disabled_at")
        said = {place: tuple(after[name] for name in names) for place, after in told.items()}
        return f"the settings are {rows}, and the audit says {said}" if rows != said else ""

    def _unaudited_models(self) -> str:
        told: dict[int, dict[str, Any]] = {}
        statement = (
            "SELECT model_id, metadata FROM `202_attribution_audit` WHERE action LIKE 'model_%' ORDER BY audit_id"
        )
        for model_id, metadata in self._eyes.execute(statement):
            entry = json.loads(metadata)
            for standing in filter(None, (entry["before"], entry["after"])):
                standing.pop("is_default")  # of one model, it may change with another's
            if not entry["actor"] or not entry["source"] or entry["before"] != told.get(model_id):
                return f"model {model_id} was changed without an audit row before {entry}"
            told[model_id] = entry["after"]
        for _, row in self._model_rows():
            known = told.get(row.model_id, {})
            if (known.get("type"), known.get("is_active")) != (row.type_name, row.is_active):
                return f"model {row.model_id} is {row}, and the audit says {known}"
        return ""

    def delete(self, clicks: Set[int], conversions: Set[int]) -> None:
        """By hand."""
        places = [("202_stream_clicks", "click_id", clicks), ("202_stream_journeys", "conv_id", conversions)]
        places += [
            ("202_conversion_logs", "conv_id", conversions),
            ("202_conversion_touchpoints", "conv_id", conversions),
        ]
        for relation, column, ids in places:
            self._eyes.executemany(f"DELETE FROM `{relation}` WHERE {column} = ?", [(each,) for each in sorted(ids)])

    def back_up(self) -> object:
        self._copies += 1
        path = Path(self._folder.name) / f"copy{self._copies}.db"
        with contextlib.closing(sqlite3.connect(path)) as kept:
            self._eyes.backup(kept)
        return path, list(self._wanted)

    def restore(self, kept: Any) -> None:  # noqa: ANN401
        assert not self.drivers, "nobody works at a database that is being restored"
        path, wanted = kept
        self._wanted += [switch for switch in wanted if switch not in self._wanted]
        with contextlib.closing(sqlite3.connect(path)) as copied:
            copied.backup(self._eyes)

    def reset(self) -> None:
        """As `tables.sql.progress.reset_progress`, of both groups."""
        for group in (JOURNEYS, HOURS_GROUP):
            newest, greatest = self._eyes.execute(
                "SELECT COALESCE(MAX(newest_conversion), 0), COALESCE(MAX(greatest_version), 1)"
                " FROM `202_stream_progress` WHERE topic_group = ?",
                [group],
            ).fetchone()
            self._eyes.execute(
                "UPDATE `202_stream_progress` SET epoch = epoch + 1, owner = '', partition_count = 0,"
                " next_offsets = '{}', topic_ids = '{}', watermark = 0, newest_conversion = ?, unsettled_keys = NULL,"
                " drained_at = 0, greatest_version = ? WHERE topic_group = ?",
                [newest, greatest, group],
            )

    def deadlocks(self) -> int:
        """One writer at a time has none."""
        return 0

    def purged(self) -> Set[int]:
        return {row[0] for row in self._eyes.execute("SELECT conv_id FROM `202_stream_journeys` WHERE purged = 1")}

    async def resume_changes(self, process: Process, evict: Evict) -> None:
        """Whoever gave the command gives it again, after the database was put back."""
        for switch in list(self._wanted):
            await self._switch(process, switch, evict)

    async def _switch(self, process: Process, switch: Switch, evict: Evict) -> None:
        database = _SimulatedDatabase(self, process.name, "settings")
        author = Author("simulated", "cli")
        await patiently(
            lambda _: set_multi_touch(database, switch, author, now=self._clock, evict=evict), lambda _: None
        )
        self._wanted.remove(switch)

    def _drawn_switch(self, chance: random.Random) -> Switch:
        scope = chance.choice((ToggleScope.GLOBAL, ToggleScope.GLOBAL, ToggleScope.CAMPAIGN, ToggleScope.ADVERTISER))
        user_id = chance.choice(self._users)
        ids = {ToggleScope.ADVERTISER: range(1, 10), ToggleScope.CAMPAIGN: range(user_id * 100 + 1, user_id * 100 + 4)}
        scope_id = 0 if scope is ToggleScope.GLOBAL else chance.choice(ids[scope])
        since = self._clock() - chance.choice((DAY // 2, 2 * DAY, 5 * DAY, 40 * DAY))
        return Switch(user_id, scope, scope_id, chance.random() < 0.4, since)

    async def switch(self, process: Process, chance: random.Random, evict: Evict) -> None:
        switch = self._drawn_switch(chance)
        self._wanted.append(switch)
        await self._switch(process, switch, evict)

    async def reconfigure(self, process: Process, chance: random.Random) -> None:
        database = _SimulatedDatabase(self, process.name, "models")
        user_id, author, now = chance.choice(self._users), Author("simulated", "cli"), self._clock()
        type_name, config = chance.choice(DEFINITIONS)
        own = [row for owner, row in self._model_rows() if owner == user_id]
        if own and chance.random() < 0.5:
            edit = ModelEdit(is_active=chance.random() < 0.5)
            place = ModelPlace(user_id, chance.choice(own).model_id)
            await update_model(database, place, edit, author, now=now)
        else:
            new = NewModel(user_id=user_id, name=f"Model {len(own)}", type_name=type_name, config=config)
            await create_model(database, new, author, now=now)

    async def rebuild(self, process: Process, keys: Sequence[HourKey]) -> None:
        """As the command does it: one hour a transaction."""
        store = self._hour_store(process)
        for key in keys:
            async with store.transaction() as transaction:
                await fire(transaction, HoursAtWork(0), Order(anew=[key]), with_extra_scopes=True)

    async def purge(self, process: Process, conv_ids: Sequence[int]) -> Sequence[Any]:
        """Returns the journeys that others are to be told of."""
        database = _SimulatedDatabase(self, process.name, "purges")
        async with database.reading() as connection:
            meant = await meant_by_ids(connection, conv_ids)
        batch = await purge_batch(database, meant, look_to_purge(), partitions=self.partitions, now=self._clock())
        return batch.journeys

    def close(self) -> None:
        for driver in self.drivers:
            driver.close()
        for connection in (*self.idle, self._eyes):
            connection.close()
        self._folder.cleanup()
