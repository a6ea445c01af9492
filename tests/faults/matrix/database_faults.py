"""A database that dies in a transaction, refuses to write, deadlocks, or goes back to an older copy."""

import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pymysql

from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.root_access import log_of, pid_of, root
from tests.faults.matrix.servers import own
from tests.support.processes import succeed, wait_for

READ_ONLY_SECONDS = 15
ROLLED_BACK = "must be rolled back or cleaned up"
DEADLOCKED = {1205, 1213}


def kill(run: Run) -> None:
    """While a transaction has changed rows; the server's own log tells afterwards whether one had to be rolled back.

    Another session holds what a worker takes last, so that its transaction stays open with all else done.
    """
    server = run.servers.parts["mariadb"]
    run.wait_progress(0.22)
    for _ in range(3):
        pid = pid_of(server)
        with root(run, autocommit=False) as holding, root(run) as looking:
            holding.do("SELECT conv_id FROM `202_stream_journeys` WHERE conv_id > 0 FOR UPDATE")  # and what is to come
            wait_for(lambda: looking.open_transactions() > 0, "an open transaction")
            looking.do("FLUSH ENGINE LOGS")  # else the server may have forgotten the transaction, and with right
            os.kill(pid, signal.SIGKILL)
        run.struck()
        server.start()
        run.healed()
        run.wait_caught_up()
    times = log_of(server).count(ROLLED_BACK)
    assert times == 3, f"it died within a transaction {times} of 3 times"
    run.note("each time the server had to roll a transaction back when it started")


def be_read_only(run: Run) -> None:
    run.wait_progress(0.3)
    with root(run) as database:
        run.struck()
        database.do("SET GLOBAL read_only = 1")
        try:
            time.sleep(READ_ONLY_SECONDS)
        finally:
            database.do("SET GLOBAL read_only = 0")
        run.healed()


def deadlock(run: Run) -> None:
    """Another session takes what a worker takes last, then waits for what it takes first, until one of two must go.

    It has changed so many rows of its own that the server gives up the worker's transaction, not this one.
    """
    with root(run) as database:
        database.do("SET GLOBAL innodb_monitor_enable = 'lock_deadlocks'")
        database.do("CREATE TABLE ballast (number INT PRIMARY KEY)")
        before = database.deadlocks()
    run.wait_progress(0.22)
    won = 0
    while won < 3:
        share = run.progress()
        if _stands_in_the_way(run):
            run.struck()
            won += 1
        elif share > 0.78:
            break
    with root(run) as database:
        run.note(f"{database.deadlocks() - before} deadlocks by the server's count, {won} given up by the worker")
        database.do("DROP TABLE ballast")
    assert won, "the worker was never the one that had to give up"


def _stands_in_the_way(run: Run) -> bool:
    """True if a deadlock arose and the worker was the one to give up."""
    with root(run, autocommit=False) as database, root(run) as looking:
        before = looking.deadlocks()
        try:
            database.do("INSERT INTO ballast SELECT seq FROM seq_1_to_20000")
            newest = database.do("SELECT conv_id FROM `202_stream_journeys` ORDER BY conv_id DESC LIMIT 400")
            ids = ", ".join(str(row[0]) for row in newest)
            database.do(f"SELECT conv_id FROM `202_stream_journeys` WHERE conv_id IN ({ids}) FOR UPDATE")
            time.sleep(0.3)  # a worker that comes to one of them waits
            database.do("SELECT partition_id FROM `202_stream_progress` FOR UPDATE")
        except pymysql.OperationalError as error:
            if error.args[0] not in DEADLOCKED:
                raise
            return False
        finally:
            database.rollback()
        return looking.deadlocks() > before


def restore(run: Run) -> None:
    """From a copy that is older than Kafka's offsets: refused by name; the documented reset brings all back."""
    run.wait_progress(0.2)
    copy = run.folder / "copy"
    take, put_back = (_dump, _load) if run.fault.database == "mariadb" else (_copy_file, _copy_file_back)
    take(run, copy)
    run.wait_progress(0.4)
    assert run.workforce.dismiss_all() == [0]
    run.struck()
    put_back(run, copy)
    run.workforce.hire()
    run.wait_logged("the database is older, perhaps restored from a backup")
    wait_for(lambda: 1 in run.workforce.exits, "the worker to exit 1")
    reset(run)
    run.healed()
    run.flow.wait_sent()
    succeed("status", "--wait-drained", "120", env=run.installation.env, timeout=180)
    succeed("replay", *everything(run), env=run.installation.env, timeout=300)
    run.note(
        "Refused by name, exit 1; `progress reset --to-log-start` brought all rows back, `replay` the journeys topic"
    )


def everything(run: Run) -> tuple[str, ...]:
    now = run.installation.now
    return "--start", str(now - 45 * 86400), "--end", str(now)


def reset(run: Run) -> None:
    run.workforce.dismiss_all()
    wait_for(lambda: _resets(run), "the group to be empty", seconds=30)
    run.workforce.hire()


def _resets(run: Run) -> bool:
    """A worker that was refused may still be a member for a moment."""
    try:
        succeed("progress", "reset", "--to-log-start", "--yes", env=run.installation.env)
    except AssertionError as error:
        if "alive" not in str(error) and "member" not in str(error):
            raise
        return False
    return True


def _login(run: Run) -> tuple[list[str], str]:
    parts = urlsplit(run.installation.database_url)
    login = ["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", f"--port={parts.port}"]
    return [*login, f"--user={parts.username}", f"--password={parts.password}"], parts.path[1:]


def _dump(run: Run, copy: Path) -> None:
    login, database = _login(run)
    with copy.open("wb") as file:
        subprocess.run(["mariadb-dump", *login, "--single-transaction", database], stdout=file, check=True)


def _load(run: Run, copy: Path) -> None:
    login, database = _login(run)
    with copy.open("rb") as file:
        subprocess.run(["mariadb", *login, database], stdin=file, check=True)


def _sqlite_file(run: Run) -> Path:
    return Path(urlsplit(run.installation.database_url).path[1:])


def _copy_file(run: Run, copy: Path) -> None:
    _back_up(_sqlite_file(run), copy)


def _copy_file_back(run: Run, copy: Path) -> None:
    for path in _sqlite_file(run).parent.glob(f"{_sqlite_file(run).name}*"):
        path.unlink()
    _back_up(copy, _sqlite_file(run))


def _back_up(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


FAULTS = [
    Fault(
        "database-killed",
        "kill -9 of the database while a transaction has changed rows, three times",
        kill,
        servers=own("mariadb"),
        events=6000,
        rate=60,
    ),
    Fault(
        "database-read-only",
        f"SET GLOBAL read_only for {READ_ONLY_SECONDS} s, as a fail-over does",
        be_read_only,
        servers=own("mariadb"),
    ),
    Fault(
        "database-deadlock",
        "another session locks rows in the opposite order, and the server gives up the worker's transaction",
        deadlock,
        servers=own("mariadb"),
        partitions=1,
        events=5000,
        rate=120,
    ),
    Fault("database-restored", "the database goes back to an older copy", restore, rate=120, forgets_versions=True),
    Fault(
        "database-restored-sqlite",
        "the same with an SQLite file",
        restore,
        database="sqlite",
        rate=120,
        forgets_versions=True,
    ),
]
