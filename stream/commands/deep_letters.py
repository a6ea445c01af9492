"""Has each record that cannot be read its dead letter? The log once more; what lacks one is kept in a file."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from aiokafka.structs import ConsumerRecord

from stream.agents.reading import EventReader
from stream.agents.topic_names import topic_names
from stream.commands.deep import wait_for_workers
from stream.commands.log_access import read_records
from stream.commands.verify_scratch import scratch_folder
from stream.config import Settings
from stream.core.errors import InvalidEvent
from stream.wire.dead_letters import dead_letter_topic, read_dead_letter

_A_COMMIT = 1000
_SCHEMA = (
    "CREATE TABLE unreadable (topic TEXT, partition_id INTEGER, offset_id INTEGER, appended_at INTEGER, reason TEXT,"
    " PRIMARY KEY (topic, partition_id, offset_id)) WITHOUT ROWID"
)


@dataclass(slots=True)
class LettersFound:
    """What came of it."""

    behind: int = 0  # records that workers lack: then nothing was compared
    unreadable: int = 0  # records that want a letter
    lost: int = 0  # of these, older than the oldest letter that Kafka still keeps: nobody can tell
    missing: int = 0
    first: Sequence[str] = ()


async def compare_letters(settings: Settings, *, most: int) -> LettersFound:
    """Looks twice at the letters: those of records that came in meanwhile follow. `most`: how many are named."""
    found = LettersFound(behind=await wait_for_workers(settings))
    if found.behind:
        return found
    names = topic_names(settings)
    sources = (names.clicks, names.conversions)
    with scratch_folder(settings.data_dir) as folder, _Unreadable.kept_in(str(folder / "letters.db")) as unreadable:
        reader = EventReader(clicks=names.clicks, conversions=names.conversions, partitions=names.partitions)
        for topic in sources:
            await unreadable.take(settings, topic, reader)
        found.unreadable = unreadable.count()
        for is_last in (False, True):
            found.lost += sum([await unreadable.leave_answered(settings, topic) for topic in sources])
            found.missing = unreadable.count()
            if not found.missing or is_last:
                break
            found.behind = await wait_for_workers(settings)
        found.first = unreadable.first(most)
    return found


class _Unreadable:
    """Places of records that cannot be read and whose letter was not seen yet."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute(_SCHEMA)

    @classmethod
    @contextmanager
    def kept_in(cls, path: str) -> Iterator["_Unreadable"]:
        with closing(sqlite3.connect(path)) as connection:
            yield cls(connection)

    async def take(self, settings: Settings, topic: str, reader: EventReader) -> None:
        insert = "INSERT INTO unreadable VALUES (?, ?, ?, ?, ?)"
        commit = self._committing()
        async for record in read_records(settings, topic):
            content = reader(record).content
            if isinstance(content, InvalidEvent):
                row = (topic, record.partition, record.offset, record.timestamp, str(content.reason))
                self._connection.execute(insert, row)
                commit()

    async def leave_answered(self, settings: Settings, topic: str) -> int:
        """Those without a letter stay; returns how many are left out, since letters of their time are gone."""
        delete = "DELETE FROM unreadable WHERE topic = ? AND partition_id = ? AND offset_id = ?"
        commit = self._committing()
        lost, is_first = 0, True
        async for record in read_records(settings, dead_letter_topic(topic)):
            if is_first and record.offset:
                lost = self._leave_lost(topic, record)
            is_first = False
            letter = read_dead_letter(record.key, record.value, record.headers)
            if letter is not None and letter.origin.topic == topic:
                self._connection.execute(delete, (topic, letter.origin.partition, letter.origin.offset))
                commit()
        return lost

    def _leave_lost(self, topic: str, oldest: ConsumerRecord) -> int:
        """A letter comes after its record: what was appended behind the oldest letter there is has its letter there."""
        older = "DELETE FROM unreadable WHERE topic = ? AND appended_at <= ?"
        return self._connection.execute(older, (topic, oldest.timestamp)).rowcount

    def count(self) -> int:
        return int(self._connection.execute("SELECT COUNT(*) FROM unreadable").fetchone()[0])

    def first(self, most: int) -> Sequence[str]:
        rows = self._connection.execute("SELECT * FROM unreadable ORDER BY 1, 2, 3 LIMIT ?", [most])
        return [
            f"{topic} partition {partition} offset {offset}: {reason}" for topic, partition, offset, _, reason in rows
        ]

    def _committing(self) -> Callable[[], None]:
        done = 0

        def commit() -> None:
            nonlocal done
            done += 1
            if done % _A_COMMIT == 0:
                self._connection.commit()

        return commit
