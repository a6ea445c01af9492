"""The topics of results against a database that may be older than they: a record that no row stands for has to go.

A row that was published and then lost, with the database going back to a copy, leaves no trace in SQL that it was. If
it does not come about again, because facts now come in another order, nobody else would ever end its record.
"""

from collections.abc import Iterator, Sequence

from stream.commands.log_access import read_records
from stream.config import Settings
from stream.core.hours import HourKey
from stream.core.results import Removal, RemovalKind
from stream.topics import CREDITS, SNAPSHOTS
from tables.sql.database import Database
from tables.sql.republishing import publish_all_again, remove_without_rows

_KINDS = {SNAPSHOTS: RemovalKind.SNAPSHOT, CREDITS: RemovalKind.CREDIT}
_HOURS_AT_A_TIME = 200

_Published = tuple[HourKey, set[Removal]]


async def publish_results_again(settings: Settings, database: Database) -> None:
    """No worker may be alive. Takes memory for the keys of all records that the topics hold; may be repeated."""
    published: dict[HourKey, set[Removal]] = {}
    for topic, kind in _KINDS.items():
        for key in await _standing_keys(settings, settings.topic_prefix + topic):
            if (hour := _hour_of(key)) is not None:
                published.setdefault(hour, set()).add(Removal(kind, key.decode()))
    async with database.transaction() as connection:
        await publish_all_again(connection)
    for part in _parts(sorted(published.items())):
        async with database.transaction() as connection:
            await remove_without_rows(connection, dict(part))


async def _standing_keys(settings: Settings, topic: str) -> set[bytes]:
    """Of all records that no tombstone has ended."""
    standing: set[bytes] = set()
    async for record in read_records(settings, topic):
        if record.key is not None:
            (standing.discard if record.value is None else standing.add)(record.key)
    return standing


def _hour_of(key: bytes) -> HourKey | None:
    """None: no key that we would write."""
    user_id, _, rest = key.partition(b":")
    date_hour = rest.partition(b":")[2].partition(b":")[0]
    return HourKey(int(user_id), int(date_hour)) if user_id.isdigit() and date_hour.isdigit() else None


def _parts(published: Sequence[_Published]) -> Iterator[Sequence[_Published]]:
    for start in range(0, len(published), _HOURS_AT_A_TIME):
        yield published[start : start + _HOURS_AT_A_TIME]
