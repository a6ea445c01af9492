"""Signs of life for those who watch the cron that was here before: 202_cronjob_logs, and windows in 202_cronjobs."""

from tables.sql.connections import Connection

REBUILD_ID = 2  # of the attribution rebuild in 202_cronjob_logs
_REBUILD_TYPE = "attr"


async def sign_of_life(connection: Connection, *, now: int) -> None:
    await connection.run("REPLACE INTO `202_cronjob_logs` (id, last_execution_time) VALUES (?, ?)", [REBUILD_ID, now])


async def mark_window(connection: Connection, *, date_hour: int) -> None:
    """The hour has its row, and older ones go, as the cron did it. Nothing of ours asks for it."""
    place = [_REBUILD_TYPE, date_hour]
    known = await connection.fetch(
        "SELECT 1 FROM `202_cronjobs` WHERE cronjob_type = ? AND cronjob_time = ? LIMIT 1", place
    )
    if not known:
        await connection.run("INSERT INTO `202_cronjobs` (cronjob_type, cronjob_time) VALUES (?, ?)", place)
    await connection.run("DELETE FROM `202_cronjobs` WHERE cronjob_type = ? AND cronjob_time < ?", place)
