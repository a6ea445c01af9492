"""Prosper202's cached journeys: after a commit, the entries of its conversions go from memcached."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress

from aiomcache.pool import Connection, MemcachePool

LIMIT_S = 0.2  # of all deletions of a chunk: a cache must not hold up the log

# What the hash is seeded with where the server's variables are unset (ripemd160 of nothing), and where the function
# that makes the seed is not loaded.
_COMMAND_LINE = "9c1185a5c5e9fc54612808977ee8f548b2258d31"
_NO_SEED = ""


def journey_keys(conv_id: int, site_hashes: Iterable[str]) -> list[bytes]:
    """The documented key, and the hashed one of each web server."""
    documented = f"attribution_journey_{conv_id}"
    hashed = [
        hashlib.md5(f"{documented}_{site_hash}".encode(), usedforsecurity=False).hexdigest()
        for site_hash in site_hashes
    ]
    return [key.encode() for key in (documented, *hashed)]


class JourneyCache:
    """One memcached server, or none: then deleting does nothing. Never raises: failures are counted."""

    def __init__(self, host: str, port: int, site_hashes: Sequence[str] = ()) -> None:
        self._site_hashes = tuple(dict.fromkeys((*site_hashes, _COMMAND_LINE, _NO_SEED)))
        self._pool = MemcachePool(host, port, minsize=1, maxsize=1) if host else None

    async def delete(self, conv_ids: Sequence[int]) -> int:
        """Returns how many conversions may still have an entry. Deleting what is not there is no failure."""
        if self._pool is None or not conv_ids:
            return 0
        keys = [journey_keys(conv_id, self._site_hashes) for conv_id in conv_ids]
        deleted = 0
        with suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                connection = await self._pool.acquire()
                try:
                    deleted = await _delete_all(connection, keys)
                finally:
                    self._release(self._pool, connection, is_whole=deleted == len(keys))
        return len(keys) - deleted

    def _release(self, pool: MemcachePool, connection: Connection, *, is_whole: bool) -> None:
        if not is_whole:
            # Answers that nobody waited for would be taken for those of the next chunk.
            connection.reader.set_exception(ConnectionError("given up"))  # so the pool closes it
        pool.release(connection)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.clear()


async def _delete_all(connection: Connection, keys: Sequence[Sequence[bytes]]) -> int:
    """All requests at once, then all answers: one round trip for a chunk. Returns for how many lists all went well."""
    connection.writer.write(b"".join(b"delete %b\r\n" % key for each in keys for key in each))
    await connection.writer.drain()
    deleted = 0
    for each in keys:
        answers = [await connection.reader.readline() for _ in each]
        if not all(answer in {b"DELETED\r\n", b"NOT_FOUND\r\n"} for answer in answers):
            break
        deleted += 1
    return deleted
