"""The processes of a replay: forked, so that none has to import anything. Jobs and answers are lines of JSON.

A process ends when its socket does, so none outlives the one that started it.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn

from stream.commands.replay_refused import Failure, Teller
from stream.commands.replay_work import Job, work
from stream.config import Settings
from stream.core.errors import StreamError

_LINE_LIMIT = 16 * 1024 * 1024


class Processes:
    """To be made before there is an event loop, a thread, or any connection."""

    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._sockets: list[socket.socket] = []
        self._pids: list[int] = []
        for _ in range(count if count > 1 else 0):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if not pid:
                for other in (ours, *self._sockets):  # as long as anybody has them open, they do not end
                    other.close()
                _serve_to_end(settings, theirs)
            theirs.close()
            self._sockets.append(ours)
            self._pids.append(pid)
        self._streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def work(self, jobs: Sequence[Job], teller: Teller) -> None:
        """At most one for each; a single one is done right here.

        Raises StreamError with what the first that failed said, and then they are of no further use.
        """
        if len(jobs) == 1:
            await work(self._settings, jobs[0], teller)
            return
        while len(self._streams) < len(jobs):
            connection = self._sockets[len(self._streams)]
            self._streams.append(await asyncio.open_connection(sock=connection, limit=_LINE_LIMIT))
        tasks = [asyncio.create_task(_done(job, *ends, teller)) for job, ends in zip(jobs, self._streams, strict=False)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def end(self) -> None:
        """Whatever they are at is given up. Returns when they are gone."""
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # of one that has ended already
                connection.shutdown(socket.SHUT_RDWR)
        for _, writer in self._streams:
            writer.close()
        for connection in self._sockets[len(self._streams) :]:
            connection.close()
        for pid in self._pids:
            os.waitpid(pid, 0)


async def _done(job: Job, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, teller: Teller) -> None:
    writer.write(json.dumps(job._asdict()).encode() + b"\n")
    while line := await _next_line(reader):
        said = json.loads(line)
        if said["kind"] == "counts":
            teller.counted(said["counts"])
        elif said["kind"] == "error":
            teller.failed(Failure(**said["failure"]))
        elif said["kind"] == "failed":
            raise StreamError(said["error"], hint=said["hint"])
        else:
            return
    raise StreamError("a process of the replay ended without a word; the same command goes on")


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    """Empty once the other side is gone: whoever is killed may leave something unread, which is an error here."""
    with contextlib.suppress(ConnectionError):
        return await reader.readline()
    return b""


# In a process


def _serve_to_end(settings: Settings, connection: socket.socket) -> NoReturn:
    """Nothing of the one that forked is left to do here: neither its stack nor its buffers are ours."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the one that started us decides
        asyncio.run(_serve(settings, connection))
    except BaseException:  # noqa: BLE001 -- the stack of the one that forked must not go on here
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


async def _serve(settings: Settings, connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection, limit=_LINE_LIMIT)
    lines = _Lines(writer)
    while line := await _next_line(reader):
        leaving = asyncio.create_task(_leave_with(reader))
        try:
            await work(settings, Job(**json.loads(line)), lines)
        except StreamError as error:
            lines.say(kind="failed", error=str(error), hint=error.hint)
        else:
            lines.say(kind="done")
        leaving.cancel()
        await asyncio.wait([leaving])


async def _leave_with(reader: asyncio.StreamReader) -> None:
    """Whoever started us is gone, or gives up: what was not finished is taken up by the next run."""
    await _next_line(reader)
    os._exit(1)


class _Lines(Teller):
    """Says everything in lines."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def counted(self, counts: Mapping[str, int]) -> None:
        self.say(kind="counts", counts=dict(counts))

    def failed(self, failure: Failure) -> None:
        self.say(kind="error", failure=failure._asdict())

    def say(self, **said: object) -> None:
        self._writer.write(json.dumps(said).encode() + b"\n")
