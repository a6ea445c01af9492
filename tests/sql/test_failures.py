"""Two writers in each other's way, answers that get lost, values that do not fit."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stream.core.errors import RefusedByDatabase, StartRefused, Unavailable
from stream.core.facts import Needs
from stream.core.money import Units
from tables.sql.database import Database, open_database
from tables.sql.errors import DuplicateKey, TransactionConflict
from tables.sql.facts import JOURNEYS_GROUP, SqlFactStore, Writing, list_progress, reset_progress
from tables.sql.progress import lock_partition, raise_version
from tables.sql.upgrade import upgrade_schema
from tests.support.rows import query
from tests.support.servers import RunningServer, run_sql
from tests.support.sql_examples import click, conversion, journey

LIMIT_S = 20


def store_on(database: Database, owner: str = "worker-1") -> SqlFactStore:
    return SqlFactStore(database, Writing(owner=owner, writes_conversion_logs=True, clock=lambda: 1))


async def until_somebody_waits(url: str) -> None:
    """A statement of another connection takes longer than it would without a lock."""
    waiting = (
        "SELECT 1 FROM information_schema.processlist WHERE command = 'Query' AND time_ms > 50"
        " AND db = DATABASE() AND id <> CONNECTION_ID()"
    )
    async with asyncio.timeout(LIMIT_S):
        while not query(url, waiting):  # noqa: ASYNC110 -- the server sets no event
            await asyncio.sleep(0.01)


async def test_of_two_partitions_that_claim_one_click_the_second_sees_the_first(
    mariadb: Database, schema_mariadb: str
) -> None:
    store = store_on(mariadb)

    async def second() -> object:
        async with store.transaction() as transaction:
            return await transaction.claim_clicks([click(1, campaign_id=71), click(2), click(3)])

    async with store.transaction() as transaction:
        assert await transaction.claim_clicks([click(1), click(9)]) == {}
        claim = asyncio.create_task(second())
        await until_somebody_waits(schema_mariadb)
    assert await claim == {1: click(1)}
    facts = await store.read(Needs(clicks=frozenset([1, 2, 3, 9])))
    assert facts.clicks == {1: click(1), 2: click(2), 3: click(3), 9: click(9)}


async def test_a_claim_goes_through_where_the_first_rolls_back(mariadb: Database, schema_mariadb: str) -> None:
    store = store_on(mariadb)

    async def second() -> object:
        async with store.transaction() as transaction:
            return await transaction.claim_clicks([click(1, campaign_id=71)])

    with contextlib.suppress(ZeroDivisionError):
        async with store.transaction() as transaction:
            await transaction.claim_clicks([click(1)])
            claim = asyncio.create_task(second())
            await until_somebody_waits(schema_mariadb)
            raise ZeroDivisionError
    assert await claim == {}


async def test_the_known_clicks_of_a_claim_stay_locked(mariadb: Database, schema_mariadb: str) -> None:
    store = store_on(mariadb)
    async with store.transaction() as transaction:
        await transaction.claim_clicks([click(1)])

    async def revise(revised_at: int) -> None:
        async with store.transaction() as transaction:
            stored = await transaction.claim_clicks([click(1)])
            await transaction.replace_clicks([max(stored[1], click(1, revised_at=revised_at))])

    async with store.transaction() as transaction:
        await transaction.claim_clicks([click(1)])
        other = asyncio.create_task(revise(5))
        await until_somebody_waits(schema_mariadb)
        await transaction.replace_clicks([click(1, revised_at=8)])
    await other
    assert (await store.read(Needs(clicks=frozenset([1])))).clicks[1].revised_at == 8


async def test_many_claims_of_the_same_clicks_end_with_one_of_each(mariadb: Database) -> None:
    store = store_on(mariadb)

    async def claim(campaign_id: int) -> int:
        while True:
            with contextlib.suppress(TransactionConflict):
                async with store.transaction() as transaction:
                    clicks = [click(number, campaign_id=campaign_id) for number in range(1, 301)]
                    return len(clicks) - len(await transaction.claim_clicks(clicks))

    async with asyncio.timeout(LIMIT_S):
        assert sum(await asyncio.gather(*(claim(number) for number in range(1, 7)))) == 300


@pytest.mark.parametrize("version", [1, 7])  # behind all that it had, should it have been stored before
async def test_a_conversion_id_that_two_partitions_store_at_once_stands_for_the_first_alone(
    mariadb: Database, schema_mariadb: str, version: int
) -> None:
    store = store_on(mariadb)

    async def second() -> None:
        async with store.transaction() as transaction:
            await transaction.write_journeys([journey(conversion(1, user_id=9), version=version)], new={1})

    async with store.transaction() as transaction:
        await transaction.write_journeys([journey(conversion(1), version=version)], new={1})
        other = asyncio.create_task(second())
        await until_somebody_waits(schema_mariadb)
    with pytest.raises(TransactionConflict, match="conversion 1 is being stored elsewhere"):
        await other
    async with store.transaction() as transaction:
        await transaction.write_journeys([journey(conversion(1))], new={1})  # the same again is no conflict
    stored = (await store.read(Needs(conversions=frozenset([1])))).journeys
    assert stored[1].conversion == conversion(1)


async def test_a_reset_waits_for_whoever_raises_what_it_takes_the_greatest_of(
    mariadb: Database, schema_mariadb: str
) -> None:
    async with mariadb.transaction() as connection:
        await lock_partition(connection, JOURNEYS_GROUP, 0, now=1)
    async with mariadb.transaction() as connection:
        await lock_partition(connection, JOURNEYS_GROUP, 0, now=1)
        await raise_version(connection, JOURNEYS_GROUP, 0, 9)
        reset = asyncio.create_task(reset_progress(mariadb, now=2))
        await until_somebody_waits(schema_mariadb)
    await reset
    assert [row.greatest_version for row in await list_progress(mariadb)] == [9]


async def test_two_partitions_that_decide_about_one_transaction_conflict(
    mariadb: Database, schema_mariadb: str
) -> None:
    store = store_on(mariadb)

    async def second() -> None:
        async with store.transaction() as transaction:
            await transaction.write_journeys([journey(conversion(2, user_id=9, transaction_id="t"))])

    async with store.transaction() as transaction:
        await transaction.write_journeys([journey(conversion(1, transaction_id="t"))])
        other = asyncio.create_task(second())
        await until_somebody_waits(schema_mariadb)
    with pytest.raises(DuplicateKey):
        await other
    assert issubclass(DuplicateKey, TransactionConflict)
    assert issubclass(TransactionConflict, Unavailable)
    assert query(schema_mariadb, "SELECT conv_id FROM `202_stream_journeys`") == [(1,)]


async def test_a_deadlock_is_a_conflict_and_the_next_try_goes_through(mariadb: Database, schema_mariadb: str) -> None:
    store = store_on(mariadb)
    async with store.transaction() as transaction:
        await transaction.claim_clicks([click(1), click(2)])

    holds_the_other = asyncio.Event()

    async def second() -> None:
        async with store.transaction() as transaction:
            await transaction.claim_clicks([click(2)])
            holds_the_other.set()
            await transaction.claim_clicks([click(1)])

    outcomes: list[BaseException] = []
    async with contextlib.AsyncExitStack() as stack:
        transaction = await stack.enter_async_context(store.transaction())
        await transaction.claim_clicks([click(1)])
        other = asyncio.create_task(second())
        await holds_the_other.wait()
        await until_somebody_waits(schema_mariadb)
        try:
            await transaction.claim_clicks([click(2)])
        except TransactionConflict as conflict:
            outcomes.append(conflict)
            await stack.aclose()
    outcomes += [error for error in await asyncio.gather(other, return_exceptions=True) if error]
    assert [type(error) for error in outcomes] == [TransactionConflict]
    await second()


async def test_a_transaction_that_a_stopped_worker_left_open_gives_its_locks_back(mariadb: Database) -> None:
    store = store_on(mariadb)
    with pytest.raises(Unavailable):  # noqa: PT012 -- all of the transaction fails
        async with store.transaction() as transaction:
            await transaction._connection.run("SET SESSION wait_timeout = 1")  # the real one is too long for a test
            await transaction.claim_clicks([click(1)])
            async with asyncio.timeout(LIMIT_S), store.transaction() as other:
                assert await other.claim_clicks([click(1, campaign_id=71)]) == {}
            await transaction.claim_clicks([click(2)])
    facts = await store.read(Needs(clicks=frozenset([1, 2])))
    assert facts.clicks == {1: click(1, campaign_id=71)}


@contextlib.asynccontextmanager
async def proxy_that_loses_the_answer(port: int) -> AsyncIterator[int]:
    """Passes everything on, but hangs up once a COMMIT has been carried out."""

    async def serve(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        is_committing = has_written = False

        async def back() -> None:
            while data := await from_server.read(65536):
                if is_committing:
                    break
                to_client.write(data)
            to_client.close()

        answering = asyncio.create_task(back())
        while data := await from_client.read(65536):
            is_committing = is_committing or (data[4:] == b"\x03COMMIT" and has_written)
            has_written = b"INSERT INTO" in data
            to_server.write(data)
        to_server.close()
        await answering

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_commit_whose_answer_is_lost_is_unavailable_and_stored(schema_mariadb: str) -> None:
    port = int(schema_mariadb.rpartition("/")[0].rpartition(":")[2])
    async with proxy_that_loses_the_answer(port) as deaf_port:
        database = open_database(schema_mariadb.replace(f":{port}/", f":{deaf_port}/"))
        with pytest.raises(Unavailable) as lost:
            async with store_on(database).transaction() as transaction:
                await transaction.claim_clicks([click(1)])
        assert not isinstance(lost.value, TransactionConflict)
        await database.close()
    assert query(schema_mariadb, "SELECT click_id FROM `202_stream_clicks`") == [(1,)]


async def test_a_connection_that_the_server_closed_is_replaced(mariadb: Database, schema_mariadb: str) -> None:
    store = store_on(mariadb)
    with pytest.raises(Unavailable):  # noqa: PT012 -- all of the transaction fails
        async with store.transaction() as transaction:
            await transaction.claim_clicks([click(1)])
            ((number,),) = await transaction._connection.fetch("SELECT CONNECTION_ID()")
            run_sql(schema_mariadb, f"KILL {number}")
            await transaction.claim_clicks([click(2)])
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks([click(1), click(2)]) == {}


async def test_a_server_that_is_away_is_unavailable_until_it_is_back(own_mariadb: RunningServer) -> None:
    url = own_mariadb.value
    await upgrade_schema(url)
    database = open_database(url)
    store = store_on(database)
    await store.read(Needs(clicks=frozenset([1])))
    own_mariadb.stop()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.read(Needs(clicks=frozenset([1])))
    own_mariadb.start()
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks([click(1)]) == {}
    await database.close()


@pytest.mark.parametrize(
    "unfit",
    [
        click(1, user_id=2**24),
        click(2**64),
        click(1, click_cpc=Units(10_000_000)),
        click(1, visitor_id="x" * 256),
        click(1, visitor_id="\udcff"),
        click(1, click_time=-1),
    ],
    ids=["user", "id", "cpc", "long visitor", "no text", "time"],
)
async def test_what_does_not_fit_a_column_is_refused_never_cut_off(mariadb: Database, unfit: object) -> None:
    store = store_on(mariadb)
    with pytest.raises(RefusedByDatabase):
        async with store.transaction() as transaction:
            await transaction.claim_clicks([click(5), unfit])  # type: ignore[list-item]  # a Click
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks([click(5)]) == {}


@pytest.mark.parametrize("unfit", [click(2**64), click(1, visitor_id="\udcff")], ids=["id", "no text"])
async def test_what_sqlite_cannot_hold_is_refused(schema_sqlite: str, unfit: object) -> None:
    database = open_database(schema_sqlite)
    with pytest.raises(RefusedByDatabase):
        async with store_on(database).transaction() as transaction:
            await transaction.claim_clicks([click(5), unfit])  # type: ignore[list-item]  # a Click
    async with store_on(database).transaction() as transaction:
        assert await transaction.claim_clicks([click(5)]) == {}
    await database.close()


async def test_a_database_without_our_tables_names_the_command(fresh_database: str) -> None:
    database = open_database(fresh_database)
    with pytest.raises(StartRefused) as refused:
        await store_on(database).progress()
    assert "db upgrade" in refused.value.hint
    await database.close()


async def test_a_key_that_somebody_took_away_names_the_command_and_that_brings_it_back(
    mariadb: Database, schema_mariadb: str
) -> None:
    async with mariadb.transaction() as connection:
        await connection.run("ALTER TABLE `202_stream_journeys` DROP KEY click_lookup")
    needs = Needs(conversions_of_clicks=frozenset([1]))
    with pytest.raises(StartRefused, match="click_lookup") as refusal:
        await store_on(mariadb).read(needs)
    assert "db upgrade" in refusal.value.hint
    await upgrade_schema(schema_mariadb)
    assert (await store_on(mariadb).read(needs)).journeys == {}


async def test_writers_on_sqlite_follow_one_another(schema_sqlite: str) -> None:
    """In one process, and in several: two Databases share nothing but the file."""
    databases = [open_database(schema_sqlite) for _ in range(2)]

    async def claim(number: int) -> None:
        async with store_on(databases[number % 2]).transaction() as transaction:
            await transaction.claim_clicks([click(number)])
            await asyncio.sleep(0)

    await asyncio.gather(*(claim(number) for number in range(1, 41)))
    assert query(schema_sqlite, "SELECT COUNT(*) FROM `202_stream_clicks`") == [(40,)]
    for database in databases:
        await database.close()


async def test_readers_of_an_sqlite_file_do_not_wait_for_its_writer(schema_sqlite: str) -> None:
    database = open_database(schema_sqlite)
    store = store_on(database)
    async with store.transaction() as transaction:
        await transaction.claim_clicks([click(1)])
        assert query(schema_sqlite, "SELECT COUNT(*) FROM `202_stream_clicks`") == [(0,)]
        assert (await store.read(Needs(clicks=frozenset([1])))).clicks == {}
    assert query(schema_sqlite, "SELECT COUNT(*) FROM `202_stream_clicks`") == [(1,)]
    await database.close()


async def test_a_cancelled_transaction_leaves_nothing_and_no_lock(schema_url: str) -> None:
    database = open_database(schema_url)
    store = store_on(database)
    entered = asyncio.Event()

    async def never_ending() -> None:
        async with store.transaction() as transaction:
            await transaction.claim_clicks([click(1)])
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(never_ending())
    await entered.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks([click(1)]) == {}
    await database.close()


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    path.write_bytes(b"no database at all, only some text" * 100)
    with pytest.raises(Exception, match="not a database"):
        await upgrade_schema(f"sqlite+aiosqlite:///{path}")
