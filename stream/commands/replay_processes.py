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
_PATIENCE_S = 10.0  # one that does not hear is killed then
_POLL_S = 0.005


class Processes:
    """To be made by the main thread, before there is an event loop, another thread, or any connection."""

    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._sockets: list[socket.socket] = []
        self._pids: list[int] = []
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: for us to decide, not for them
        for _ in range(count if count > 1 else 0):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if not pid:
                _serve_to_end(settings, theirs, not_ours=[ours, *self._sockets])
            theirs.close()
            self._sockets.append(ours)
            self._pids.append(pid)
        signal.signal(signal.SIGINT, interrupted)
        self._streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def work(self, jobs: Sequence[Job], teller: Teller) -> None:
        """At most one for each; a single one is done right here.

        Raises StreamError with what the first that failed said. All of them have ended then, or if it is cancelled:
        whoever takes the run over must not meet them.
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
        except BaseException:
            await self.end()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def end(self) -> None:
        """Whatever they are at is given up. Returns when they are gone; there may be none left."""
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # of one that has ended already
                connection.shutdown(socket.SHUT_RDWR)
        for _, writer in self._streams:
            writer.close()
        for connection in self._sockets[len(self._streams) :]:
            connection.close()
        self._sockets, self._streams = [], []
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while self._pids:
                    self._pids = [pid for pid in self._pids if not _has_ended(pid)]
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            pass
        finally:
            for pid in self._pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                _has_ended(pid, options=0)
            self._pids = []


def _has_ended(pid: int, *, options: int = os.WNOHANG) -> bool:
    try:
        return os.waitpid(pid, options)[0] == pid
    except ChildProcessError:  # whoever started us has children forgotten
        return True


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


def _serve_to_end(settings: Settings, connection: socket.socket, *, not_ours: Sequence[socket.socket]) -> NoReturn:
    """Nothing of the one that forked is left to do here: neither its stack nor its buffers are ours."""
    try:
        for other in not_ours:  # as long as anybody has them open, their processes do not end
            other.close()
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
        except BaseException:  # noqa: BLE001 -- what is left to clean up may take long, and nobody would know
            traceback.print_exc()
            os._exit(1)
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
