"""Which events stand in these files, line by line, in which order? Reads JSONL, also .gz and STDIN; knows no broker."""

import gzip
import heapq
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click

from stream.core.errors import InvalidEvent, StreamError
from stream.wire.decoding import EventDecoder

STDIN = "-"
# A refused line must fit a record of the dead letters (6 MiB), with headers and room for bad luck in compression.
LARGEST_LINE_BYTES = 6 * 1024 * 1024 - 64 * 1024

# A refused line has no time; it goes out as soon as it is met.
_AT_ONCE = -1


class UnreadableFile(StreamError):
    """A file that cannot be opened, or not be read to its end."""


class Line(NamedTuple):
    """One line that is not blank, without its line end."""

    file: str
    number: int  # from 1
    value: bytes

    @property
    def place(self) -> str:
        return f"{self.file} line {self.number}"


class EventLine(NamedTuple):
    """A line that was understood; its bytes go into the topic as they are."""

    line: Line
    topic: str  # without prefix
    user_id: int
    campaign_id: int
    event_time: int


class RefusedLine(NamedTuple):
    """A line that is no event of its topic."""

    line: Line
    topic: str
    error: InvalidEvent
    event_time: int = _AT_ONCE


class LineFile:
    """A file of lines that is open; its size and how much of it was read are those on the disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "STDIN" if path == STDIN else path
        self._raw, self._lines = self._open()

    def _open(self) -> tuple[BinaryIO, BinaryIO]:
        if self.path == STDIN:
            standard_input = click.get_binary_stream("stdin")
            return standard_input, standard_input
        try:
            raw = Path(self.path).open("rb")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise UnreadableFile(f"{self.name} cannot be read: {error.strerror}") from error
        if self.path.lower().endswith(".gz"):
            return raw, gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]  # a BinaryIO in all but name
        return raw, raw

    @property
    def size_bytes(self) -> int | None:
        """None where nobody knows it: a pipe."""
        path = Path(self.path)
        return path.stat().st_size if self.path != STDIN and path.is_file() else None

    @property
    def read_bytes(self) -> int:
        return self._raw.tell() if self._raw.seekable() else 0

    def __iter__(self) -> Iterator[Line]:
        """Raises UnreadableFile where the file breaks off, or a line is too long to be kept in any topic."""
        number = 0
        try:
            while value := self._lines.readline(LARGEST_LINE_BYTES + 2):
                number += 1
                value = value.removesuffix(b"\n").removesuffix(b"\r")
                if len(value) > LARGEST_LINE_BYTES:
                    raise UnreadableFile(
                        f"{self.name} line {number} has more than {LARGEST_LINE_BYTES:,} bytes:"
                        " neither an event nor a dead letter can be as large",
                        hint="take the line out; all before it was sent, and sending it again changes nothing",
                    )
                if value.strip():
                    yield Line(self.name, number, value)
        except (OSError, EOFError, zlib.error) as error:
            # gzip says EOFError for a file that was cut off, and the other two for one that is damaged.
            raise UnreadableFile(f"{self.name} cannot be read after line {number}: {error}") from error

    def close(self) -> None:
        """STDIN is left to its owner."""
        if self.path != STDIN:
            self._raw.close()


class Input(NamedTuple):
    """A file and the topic, without prefix, that its lines are for."""

    file: LineFile
    topic: str
    entries: Iterator[EventLine | RefusedLine]


def click_input(file: LineFile, topic: str, decoder: EventDecoder) -> Input:
    def understand(line: Line) -> EventLine:
        event = decoder.click(line.value)
        return EventLine(line, topic, event.user_id, event.campaign_id, event.click_time)

    return Input(file, topic, _understood(file, topic, understand))


def conversion_input(file: LineFile, topic: str, decoder: EventDecoder) -> Input:
    def understand(line: Line) -> EventLine:
        event = decoder.conversion(line.value)
        return EventLine(line, topic, event.user_id, event.campaign_id, event.conv_time)

    return Input(file, topic, _understood(file, topic, understand))


def merged(inputs: Sequence[Input]) -> Iterator[EventLine | RefusedLine]:
    """By event time; each file keeps its own order, also where that is not by time; between equals the first input."""
    return heapq.merge(*(each.entries for each in inputs), key=lambda entry: entry.event_time)


def _understood(
    file: LineFile, topic: str, understand: Callable[[Line], EventLine]
) -> Iterator[EventLine | RefusedLine]:
    for line in file:
        try:
            yield understand(line)
        except InvalidEvent as error:
            yield RefusedLine(line, topic, error)
