"""`ingest`: clicks and conversions from files into the topics, byte for byte."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stream.commands.event_files import (
    STDIN,
    EventLine,
    Input,
    LineFile,
    RefusedLine,
    UnreadableFile,
    click_input,
    conversion_input,
    merged,
)
from stream.commands.log_access import LogWriter, TooLargeForTopic
from stream.config import Settings, read_settings
from stream.core.errors import Unavailable
from stream.core.keys import partition_of, record_key
from stream.topics import CLICKS, CONVERSIONS
from stream.wire.dead_letters import Origin, dead_letter, dead_letter_topic
from stream.wire.decoding import EventDecoder
from stream.wire.outgoing import OutgoingRecord
from stream.wire.reasons import MEANINGS, Reason

ROUND_LINES = 10_000  # sent and acknowledged together; the next ones are read after that
ROUND_BYTES = 16 * 1024 * 1024
# Refused lines of this size go out one by one, so that a broker which takes less names the line.
ALONE_BYTES = 256 * 1024
PLAIN_PROGRESS_LINES = 500_000
SHOWN_PLACES = 5
LINE_HEADER = "touchstream-line"


class Refusals:
    """Counts of refused lines by reason, with the places of the first ones."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.places: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, refused: RefusedLine) -> None:
        reason = refused.error.reason
        self.counts[reason] += 1
        if len(self.places[reason]) < SHOWN_PLACES:
            self.places[reason].append(refused.line.place)

    def lines(self) -> Iterator[str]:
        for reason, count in self.counts.most_common():
            more = ", ..." if count > SHOWN_PLACES else ""
            yield f"  {reason} ({MEANINGS[Reason(reason)]}): {count:,}; {', '.join(self.places[reason])}{more}"


class Summary:
    """What went where so far."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()  # by topic without prefix
        self.refused: Counter[str] = Counter()
        self.refusals = Refusals()

    def add(self, entries: Sequence[EventLine | RefusedLine]) -> None:
        for entry in entries:
            if isinstance(entry, RefusedLine):
                self.refused[entry.topic] += 1
                self.refusals.add(entry)
            else:
                self.sent[entry.topic] += 1

    @property
    def line_count(self) -> int:
        return self.sent.total() + self.refused.total()


class Round(NamedTuple):
    """Records to send together, and for each of the large ones among them the line it comes from."""

    records: list[OutgoingRecord]
    alone: list[tuple[OutgoingRecord, str]]


class Ingestion:
    """Sends the lines of some inputs; the loop runs only while it sends, so that a pipe may take its time."""

    def __init__(self, settings: Settings, writer: LogWriter) -> None:
        self._prefix = settings.topic_prefix
        self._writer = writer

    async def send(self, entries: Sequence[EventLine | RefusedLine]) -> None:
        """Returns once all are stored. Raises TooLargeForTopic with the place of a line that no topic takes."""
        sending = self._round(entries)
        await self._writer.send(sending.records)
        for record, place in sending.alone:
            try:
                await self._writer.send([record])
            except TooLargeForTopic as error:
                raise TooLargeForTopic(
                    f'{place} has {len(record.value or b"")} bytes; topic "{record.topic}" does not take as much',
                    hint="raise its max.message.bytes, or take the line out; what was sent may be sent again",
                ) from error

    def _round(self, entries: Sequence[EventLine | RefusedLine]) -> Round:
        sending = Round([], [])
        for entry in entries:
            if isinstance(entry, EventLine):
                sending.records.append(self._event_record(entry))
            elif len(entry.line.value) < ALONE_BYTES:
                sending.records.append(self._dead_letter(entry))
            else:
                sending.alone.append((self._dead_letter(entry), entry.line.place))
        return sending

    def _event_record(self, entry: EventLine) -> OutgoingRecord:
        topic, user, campaign = self._prefix + entry.topic, entry.user_id, entry.campaign_id
        partition = partition_of(user, campaign, self._writer.partitions(topic))
        return OutgoingRecord(topic, partition, record_key(user, campaign), entry.line.value, ())

    def _dead_letter(self, entry: RefusedLine) -> OutgoingRecord:
        """It has never been in the topic, so it has no offset; a header of its own names file and line."""
        origin = Origin(self._prefix + entry.topic, None, None, None)
        place = ((LINE_HEADER, entry.line.place.encode("utf-8", "backslashreplace")),)
        return dead_letter(origin, entry.error, key=None, value=entry.line.value, headers=place)


def rounds(entries: Iterator[EventLine | RefusedLine]) -> Iterator[list[EventLine | RefusedLine]]:
    """Pieces bounded by lines and by bytes. What was read before a file broke off comes before its error."""
    piece: list[EventLine | RefusedLine] = []
    size = 0
    try:
        for entry in entries:
            piece.append(entry)
            size += len(entry.line.value)
            if len(piece) >= ROUND_LINES or size >= ROUND_BYTES:
                yield piece
                piece, size = [], 0
    except UnreadableFile:
        yield piece
        raise
    if piece:
        yield piece


def ingest(settings: Settings, inputs: Sequence[Input]) -> Summary:
    """Send all lines; raises what the files and the broker raise, and says then how far it came."""
    topics = [settings.topic_prefix + each.topic for each in inputs]
    summary, writer = Summary(), LogWriter(settings)
    ingestion = Ingestion(settings, writer)
    with asyncio.Runner() as runner, _bar(inputs) as bar:
        try:
            runner.run(writer.start([*topics, *map(dead_letter_topic, topics)]))
            for entries in rounds(merged(inputs)):
                runner.run(ingestion.send(entries))
                summary.add(entries)
                bar.show(summary)
        except (UnreadableFile, TooLargeForTopic, Unavailable):
            _say_how_far(summary)
            raise
        finally:
            runner.run(writer.stop())
    return summary


def _say_how_far(summary: Summary) -> None:
    if summary.line_count:
        click.echo(f"stopped after {summary.line_count:,} lines, which are in the log")


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, inputs: Sequence[Input]) -> None:
        self._progress = progress
        self._task = task
        self._inputs = inputs
        self._plain_at = PLAIN_PROGRESS_LINES

    def show(self, summary: Summary) -> None:
        count = summary.line_count
        done = sum(each.file.read_bytes for each in self._inputs)
        self._progress.update(self._task, completed=done, lines=f"{count:,} lines")
        if self._progress.disable and count >= self._plain_at:
            click.echo(f"{count:,} lines sent")
            self._plain_at = count + PLAIN_PROGRESS_LINES


@contextlib.contextmanager
def _bar(inputs: Sequence[Input]) -> Iterator[_Bar]:
    console = Console(stderr=True)
    sizes = [each.file.size_bytes for each in inputs]
    known = [size for size in sizes if size is not None]
    columns = (TextColumn("sending"), BarColumn(), TextColumn("{task.fields[lines]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum(known) if len(known) == len(sizes) else None
        yield _Bar(progress, progress.add_task("", total=total, lines=""), inputs)


def report(inputs: Sequence[Input], summary: Summary, unknown_fields: int) -> Iterator[str]:
    """What the command says at its end."""
    for each in inputs:
        refused = summary.refused[each.topic]
        yield f"{each.file.name}: {summary.sent[each.topic]:,} {each.topic} sent, {refused:,} lines refused"
    if summary.refused.total():
        yield "refused lines are in the dead letters, by reason:"
        yield from summary.refusals.lines()
    if unknown_fields:
        yield f"unknown fields, ignored: {unknown_fields:,}"


@click.command(name="ingest")
@click.option("--clicks", metavar="FILE", help="Clicks as JSONL; .gz is unpacked, - is STDIN.")
@click.option("--conversions", metavar="FILE", help="Conversions, likewise; given both, they are merged by event time.")
def command(clicks: str | None, conversions: str | None) -> None:
    """Send clicks and conversions from files into the topics.

    A line that is no event goes to the dead letters and is counted; that is no failure. Sending a file again
    changes nothing.
    """
    if clicks is None and conversions is None:
        raise click.UsageError("give --clicks FILE, --conversions FILE, or both")
    if clicks == conversions == STDIN:
        raise click.UsageError("STDIN can be the clicks or the conversions, not both")
    settings, decoder = read_settings(), EventDecoder()
    with contextlib.ExitStack() as files:
        inputs = []
        for path, topic, make in ((clicks, CLICKS, click_input), (conversions, CONVERSIONS, conversion_input)):
            if path is not None:
                file = files.enter_context(contextlib.closing(LineFile(path)))
                inputs.append(make(file, topic, decoder))
        summary = ingest(settings, inputs)
        for line in report(inputs, summary, decoder.unknown_fields):
            click.echo(line)
