"""What the machine under a worker does: a disk that is full, a clock that goes back; and the next release."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer

from tables.sql.schema import VERSION_TABLE
from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.results import RESULTS
from tests.faults.matrix.root_access import root
from tests.faults.matrix.servers import Servers, Shared, shared_servers
from tests.support.processes import succeed, wait_for
from tests.support.rows import query

FULL, BACK = "disk-full", "clock-back"
DISK_BYTES = 128 * 1024 * 1024
SPELL_SECONDS = 8
HOUR = 3600
_EPOCH_BYTES = 8  # in front of each value of the changelog

_OF_0003 = (
    "ALTER TABLE `202_stream_journeys` DROP COLUMN purged",
    "ALTER TABLE `202_stream_progress` DROP COLUMN outside_changes",
    "ALTER TABLE `202_stream_runs` DROP COLUMN arguments",
    "DROP TABLE `202_stream_run_places`",
    "DROP TABLE `202_stream_imports`",
    f"UPDATE `{VERSION_TABLE}` SET version_num = '0002'",
)


@contextmanager
def on_a_small_disk(shared: Shared) -> Iterator[Servers]:
    """The folder of the run, with the database file and all logs in it, is a disk of its own."""
    assert os.geteuid() == 0, "a disk of its own can be mounted by root alone: run it as root, in a container perhaps"
    folder = RESULTS / FULL
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        with shared_servers(shared) as servers:
            yield servers
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_disk(run: Run) -> None:
    run.wait_progress(0.25)
    filler = run.folder / "filler"
    run.struck()
    with filler.open("wb") as file:
        left = os.statvfs(run.folder)
        os.posix_fallocate(file.fileno(), 0, left.f_bavail * left.f_bsize)
    time.sleep(SPELL_SECONDS)
    filler.unlink()
    run.healed()


def refuse_data_folder(run: Run) -> None:
    """A file stands where the folder should; the root account may write to any folder."""
    run.wait_progress(0.3)
    assert run.workforce.dismiss_all() == [0]
    run.struck()
    (run.folder / "a-file").touch()
    run.workforce.environment["TOUCHSTREAM_DATA_DIR"] = str(run.folder / "a-file" / "data")
    run.workforce.hire()
    run.wait_logged("cannot be used")
    wait_for(lambda: bool(run.workforce.exits), "the worker to exit")
    run.note(f"refused by name, exit {run.workforce.exits[0]}")
    run.workforce.dismiss_all()
    run.workforce.environment.clear()
    run.workforce.hire()
    run.workforce.wait_ready()
    run.healed()


def set_clock_back(run: Run) -> None:
    """By libfaketime, whose offset stands in a file that it looks at each time."""
    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
    assert library is not None, "libfaketime is missing; on Debian: apt-get install -y faketime"
    offset = run.folder / "offset"
    offset.write_text("+0\n")
    run.workforce.environment |= {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    assert run.workforce.dismiss() == 0
    run.workforce.hire()
    run.workforce.wait_ready()
    run.wait_progress(0.35)
    assert _touchpoints_before(run, time.time() - HOUR / 2) == 0
    offset.write_text(f"-{HOUR}\n")
    run.struck()
    # What the worker writes tells which time it has; nothing else in this run is half an hour old.
    wait_for(lambda: _touchpoints_before(run, time.time() - HOUR / 2) > 0, "rows that are an hour old")
    time.sleep(SPELL_SECONDS)
    run.healed()
    count = _touchpoints_before(run, time.time() - HOUR / 2)
    run.note(f"the clock stays an hour back until the end; {count:,} touchpoints bear its time by then")


def _touchpoints_before(run: Run, at: float) -> int:
    text = f"SELECT COUNT(*) FROM `202_conversion_touchpoints` WHERE created_at < {at:.0f}"
    return int(query(run.installation.database_url, text)[0][0])


def upgrade(run: Run) -> None:
    """What an older release leaves: its schema, and states in a format that this one does not read."""
    run.wait_progress(0.3)
    assert run.workforce.dismiss_all() == [0]
    run.struck()
    asyncio.run(_write_states_of_another_format(run))
    with root(run) as database:
        for statement in _OF_0003:
            database.do(statement)
    run.workforce.hire()
    run.wait_logged("db upgrade")
    wait_for(lambda: 1 in run.workforce.exits, "the worker to exit 1")
    run.workforce.dismiss_all()
    succeed("db", "upgrade", env=run.installation.env)
    run.workforce.hire()
    run.workforce.wait_ready()
    run.healed()
    run.note("Refused by name, exit 1, until `db upgrade`; every state was unknown, SQL answered")


async def _write_states_of_another_format(run: Run) -> None:
    """For each key the last value in the changelog, with the epoch that it had."""
    records = await asyncio.to_thread(run.installation.read_changelog)
    newest = {(record.partition, record.key): record for record in records if not record.key.startswith(b"\0")}
    producer = AIOKafkaProducer(bootstrap_servers=run.installation.kafka)
    await producer.start()
    try:
        for (partition, key), record in newest.items():
            if record.value is not None:
                value = record.value[:_EPOCH_BYTES] + b"\0of another release"
                await producer.send(record.topic, value, key, partition)
    finally:
        await producer.stop()


FAULTS = [
    Fault(
        FULL,
        f"no byte is left for {SPELL_SECONDS} s on the disk of the SQLite file, the data folder and the logs",
        fill_disk,
        database="sqlite",
        servers=on_a_small_disk,
        rate=100,
        has_clean_end=False,
    ),
    Fault(
        "data-folder-unwritable", "a worker starts whose data folder cannot be written", refuse_data_folder, rate=150
    ),
    Fault(BACK, "the wall clock of the worker goes back by an hour", set_clock_back, rate=120),
    Fault("upgrade", "a worker meets the schema and the states of an older release", upgrade, rate=120),
]
