"""A database that went back to a copy forgot what it published: a reset ends such records, and sends the rest."""

import asyncio
import shutil
from pathlib import Path

from tests.faults.events import USER, click, conversion
from tests.faults.installation import Installation
from tests.support.hour_books import disagreement
from tests.support.hour_rows import read_books, read_hours, read_revisions
from tests.support.processes import succeed

HOUR = 3600
RESET = ("progress", "reset", "--to-log-start", "--yes")


def drain(installation: Installation) -> None:
    with installation.worker() as worker:
        succeed("status", "--wait-drained", "60", env=installation.env)
        assert worker.stop() == 0


def check(installation: Installation, hours: set[tuple[int, int]]) -> None:
    found = read_hours(installation.database_url)
    assert {(row.user_id, row.date_hour) for row in found.snapshots} == hours
    assert disagreement(found, asyncio.run(read_books(installation.env)).read(), what="topics") == ""
    read_revisions(installation.database_url)


def test_records_of_a_time_that_the_database_forgot_end_with_a_reset(
    kafka: str, fresh_sqlite: str, tmp_path: Path
) -> None:
    installation = Installation(kafka, fresh_sqlite, tmp_path, partitions=1, fire_interval_seconds=1)
    installation.prepare()
    start = (installation.now // HOUR - 100) * HOUR
    first, second, third = ((USER, start + number * HOUR) for number in range(3))
    installation.send([click(1, start - 9), click(2, start - 8), conversion(1, 1, start + 7)])
    drain(installation)
    file, copy = Path(fresh_sqlite.partition("///")[2]), tmp_path / "copy.db"
    shutil.copy(file, copy)
    # What follows is published and forgotten: an hour that never comes about again, and another payout of the first.
    installation.send([conversion(2, 2, start + HOUR + 7), conversion(1, 1, start + 7, click_payout=3, revised_at=1)])
    drain(installation)
    check(installation, {first, second})
    for path in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        path.unlink(missing_ok=True)
    shutil.copy(copy, file)
    # In the chunk that reads them again, the conversion is in a third hour at once, and the payout is as before.
    again = conversion(1, 1, start + 7, revised_at=2)
    installation.send([conversion(2, 2, start + 2 * HOUR + 7, revised_at=1), again])
    succeed(*RESET, env=installation.env)
    drain(installation)
    check(installation, {first, third})
    installation.remove()
