"""What the machine under a worker does: a disk that is full, a clock that goes back; and the next release."""

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer

from tables.sql.schema import VERSION_TABLE
from tests.faults.installation import metric
from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.results import RESULTS
from tests.faults.matrix.root_access import root
from tests.faults.matrix.servers import Servers, Shared, shared_servers
from tests.faults.matrix.worker_faults import wait_owners
from tests.support.processes import succeed, wait_for
from tests.support.rows import query

FULL, BACK = "disk-full", "clock-back"
DISK_BYTES = 128 * 1024 * 1024
SPELL_SECONDS = 8
FULL_WORDS = ("database or disk is full", "No space left on device")
HOUR = 3600
_EPOCH_BYTES = 8  # in front of each value of the changelog

_SINCE_0003 = (
    "DROP VIEW `202_bi_attribution_credits`",
    *(f"ALTER TABLE `202_stream_credited` DROP COLUMN {column}" for column in ("payout", "cost", "conv_time")),
    "ALTER TABLE `202_stream_journeys` DROP COLUMN purged",
    "ALTER TABLE `202_stream_progress` DROP COLUMN outside_changes",
    "ALTER TABLE `202_stream_progress` DROP COLUMN greatest_version",
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
        _take_all(file.fileno(), run.folder)
    wait_for(lambda: _met(run) != "", "a worker to meet the full disk")
    run.note(f'it was met: "{_met(run)}"')
    time.sleep(SPELL_SECONDS)
    filler.unlink()
    run.healed()


def _take_all(file: int, folder: Path) -> None:
    """Others write meanwhile, so what is free now may not be in a moment."""
    end = 0
    while left := os.statvfs(folder).f_bavail:
        size = left * os.statvfs(folder).f_bsize
        with contextlib.suppress(OSError):
            os.posix_fallocate(file, end, size)
            end += size


def _met(run: Run) -> str:
    """What /readyz of a worker says of it; else its log, whose own disk is the full one."""
    with contextlib.suppress(OSError, IndexError):
        said = json.loads(run.workforce.workers[0].health("/readyz")[1])["waiting_for"]
        if any(words in str(said) for words in FULL_WORDS):
            return str(said)
    text = run.workforce.log_text()
    return next((words for words in FULL_WORDS if words in text), "")


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


def meet_older_schema(run: Run) -> None:
    """Refused by name until it is upgraded. The older release's workers are gone: nobody may write beside a change."""
    run.wait_progress(0.3)
    assert run.workforce.dismiss_all() == [0]
    run.struck()
    with root(run) as database:
        for statement in _SINCE_0003:
            database.do(statement)
    run.workforce.hire()
    run.wait_logged("db upgrade")
    wait_for(lambda: 1 in run.workforce.exits, "the worker to exit 1")
    run.workforce.dismiss_all()
    succeed("db", "upgrade", env=run.installation.env)
    run.workforce.hire()
    run.workforce.wait_ready()
    run.healed()
    run.note("Refused by name, exit 1, until `db upgrade`")


def roll(run: Run) -> None:
    """One worker after the other, and never none: what the changelog holds as each leaves is of another release."""
    staff = run.workforce
    written = 0
    for number in range(staff_size := len(staff.workers)):
        run.wait_progress(max(0.25, run.progress() + 0.02))
        run.struck()
        written += asyncio.run(_write_states_of_another_format(run))
        assert staff.dismiss(staff.workers[0]) == 0
        assert len(staff.workers) == staff_size - 1
        assert all(worker.is_running() for worker in staff.workers), "nobody is left"
        staff.hire()
        staff.wait_ready()
        wait_owners(run, staff_size)
        assert metric(staff.workers[-1], "recovered_records") > 0, f"worker {number} took no state over"
        run.healed()
    assert written, "no state was written"
    assert not staff.exits, f"workers exited by themselves: {staff.exits}"
    run.note(
        f"At least one worker ran at any time; {written:,} states were unknown to who took them over, SQL answered"
    )


async def _write_states_of_another_format(run: Run) -> int:
    """For each key the last value in the changelog, with the epoch that it had. Returns how many."""
    records = await asyncio.to_thread(run.installation.read_changelog)
    newest = {(record.partition, record.key): record for record in records if not record.key.startswith(b"\0")}
    states = {place: record for place, record in newest.items() if record.value is not None}
    producer = AIOKafkaProducer(bootstrap_servers=run.installation.kafka)
    await producer.start()
    try:
        for (partition, key), record in states.items():
            value = record.value[:_EPOCH_BYTES] + b"\0of another release"
            await producer.send(record.topic, value, key, partition)
    finally:
        await producer.stop()
    return len(states)


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
    Fault(
        BACK,
        "the wall clock of the worker goes back by an hour",
        set_clock_back,
        rate=120,
        drain_seconds=300,  # each look at such a clock reads a file
    ),
    Fault("schema-behind", "a worker meets the schema of an older release", meet_older_schema, rate=120),
    Fault(
        "upgrade",
        "two workers are replaced one after the other under load, and find states of another release. The format of"
        " these is made up: there was only one so far",
        roll,
        workers=2,
        events=6000,
        rate=60,
    ),
]
