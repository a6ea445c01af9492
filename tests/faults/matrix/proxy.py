"""A TCP proxy between workers and a server: late, narrow, cut, or cut just behind a COMMIT that does arrive."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from threading import Thread

from dev.server import free_port

COMMIT = b"\x03COMMIT"  # MariaDB's protocol: the command "query" and its text
CHUNK = 64 * 1024
COMMIT_SECONDS = 0.5  # in which the server has committed, though nobody hears of it


@dataclass(slots=True, eq=False)
class _Connection:
    """Its two ends, and whether the way back is closed already."""

    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    is_mute: bool = False
    asked_at: float = 0.0


class Proxy:
    """Settings may be changed at any time, from any thread. Times in seconds; 0: as the network is."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.target = target
        self.latency = 0.0  # each way
        self.answer_delay = 0.0  # of the way back alone
        self.bytes_a_second = 0
        self.commits_to_cut = 0
        self.commits_cut = 0
        self.commits = 0  # that have gone through, until now
        self._answers: list[float] = []
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        self.cut_all()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut_all(self) -> int:
        """Returns how many connections there were."""
        return asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(10)

    def usual_answer(self) -> float:
        """Median time to the first byte of an answer, until now."""
        return median(self._answers)

    async def _listen(self) -> None:
        await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _cut_all(self) -> int:
        count = len(self._connections)
        for connection in list(self._connections):
            _cut(connection)
        return count

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection([writer])
        self._connections.add(connection)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            connection.writers.append(back)
            ways = [self._ask(connection, reader, back), self._answer(connection, there, writer)]
            await asyncio.wait(map(asyncio.ensure_future, ways), return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is away: so are we
        finally:
            self._connections.discard(connection)
            _cut(connection)

    async def _ask(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._hold_up(len(data))
                is_commit = data.endswith(COMMIT)
                is_cut = self.commits_to_cut > 0 and is_commit
                if is_cut:
                    self.commits_to_cut -= 1
                    connection.is_mute = True
                connection.asked_at = asyncio.get_running_loop().time()
                writer.write(data)
                await writer.drain()
                self.commits += is_commit
                if is_cut:
                    await asyncio.sleep(COMMIT_SECONDS)
                    self.commits_cut += 1
                    return

    async def _answer(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if connection.is_mute:
                    continue
                if connection.asked_at:
                    self._answers.append(asyncio.get_running_loop().time() - connection.asked_at)
                    connection.asked_at = 0.0
                await self._hold_up(len(data), more=self.answer_delay)
                writer.write(data)
                await writer.drain()

    async def _hold_up(self, size: int, *, more: float = 0.0) -> None:
        narrow = size / self.bytes_a_second if self.bytes_a_second else 0.0
        if seconds := self.latency + narrow + more:
            await asyncio.sleep(seconds)


def _cut(connection: _Connection) -> None:
    for writer in connection.writers:
        writer.transport.abort()


@contextlib.contextmanager
def proxied(target: int) -> Iterator[Proxy]:
    proxy = Proxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
