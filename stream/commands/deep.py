"""The log once more against SQL while work goes on: what differs counts only if it differs alike at a second look."""

import asyncio
import hashlib
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stream.commands.replay_plan import Wish
from stream.commands.replay_report import Telling
from stream.commands.standing import Reading, hours_reading, journeys_reading, reading_standing
from stream.commands.verify import MOST_SHOWN, Found, find_differences, whole_plan
from stream.commands.verify_scratch import accounts_of
from stream.config import Settings
from stream.replay.comparing import Difference
from tables.sql.database import Database

_PATIENCE_S = 60.0
_LOOK_S = 0.5
_MOST_REMEMBERED = 1_000_000  # 16 bytes each, and what a set needs
_SHARES = 1 << 32


class Behind(NamedTuple):
    """Workers did not come as far as the log was when we began."""

    records: int


@dataclass(slots=True)
class Alike(Found):
    """Takes what another look has seen in the same way; without one, everything."""

    seen: frozenset[bytes] | None = None
    marks: set[bytes] = field(default_factory=set)
    moving: int = 0  # that were different the last time, or right

    def take(self, difference: Difference) -> bool:
        mark = hashlib.blake2b("\0".join(difference).encode(), digest_size=16).digest()
        if self.seen is not None and mark not in self.seen:
            self.moving += 1
            return False
        if len(self.marks) < _MOST_REMEMBERED:
            self.marks.add(mark)
        self.differences += 1
        if len(self.first) < MOST_SHOWN:
            self.first.append(difference)
        return False  # told by the check, not on the way


async def sampled_accounts(database: Database, wish: Wish, share: float) -> Sequence[int]:
    """The same ones each time, whatever others there are; at least one if there is any."""
    accounts = await accounts_of(database, wish)
    of_account = {user_id: zlib.crc32(b"%d" % user_id) for user_id in accounts}
    chosen = [user_id for user_id in accounts if of_account[user_id] < share * _SHARES]
    return chosen or sorted(accounts, key=lambda user_id: of_account[user_id])[:1]


async def compare_with_log(settings: Settings, database: Database, wish: Wish) -> Alike | Behind:
    """Raises StartRefused where the log begins too late for the range."""
    found = Alike()
    for _ in range(2):
        behind = await wait_for_workers(settings)
        if behind:
            return Behind(behind)
        found = Alike(seen=frozenset(found.marks) if found.differences else None)
        plan = await whole_plan(settings, wish)
        with Telling(wish, is_silent=True) as telling:
            await find_differences(settings, wish, plan, database=database, found=found, telling=telling)
        if not found.differences:
            break
    return found


async def wait_for_workers(settings: Settings) -> int:
    """Until both groups have read what is in the log now; returns how many records they lack after a minute."""
    for reading in (journeys_reading(settings), hours_reading(settings)):
        behind = await _wait_for_group(settings, reading)
        if behind:
            return behind
    return 0


async def _wait_for_group(settings: Settings, reading: Reading) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    async with reading_standing(settings, reading) as reader:
        standing = await reader.read()
        ends = {
            (part.partition, topic): place.end for part in standing.partitions for topic, place in part.places.items()
        }
        while True:
            behind = sum(
                max(0, ends.get((part.partition, topic), 0) - (place.committed or place.begin))
                for part in standing.partitions
                for topic, place in part.places.items()
            )
            if not behind or time.monotonic() > deadline:
                return behind
            await asyncio.sleep(_LOOK_S)
            standing = await reader.read()
