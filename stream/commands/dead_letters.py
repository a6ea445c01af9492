"""`dead-letters list`, `show` and `redrive`: what could not be read, why, and again."""

import asyncio
import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream.commands.letters import Place, StoredLetter, Wanted, newest_letters, one_letter
from stream.commands.redriving import Redrive
from stream.config import Settings, read_settings
from stream.core.errors import StreamError
from stream.topics import CLICKS, CONVERSIONS
from stream.wire.dead_letters import dead_letter_topic
from stream.wire.reasons import MEANINGS, Reason

SOURCES = (CLICKS, CONVERSIONS)
PLAIN_WIDTH = 200  # of a listing that is no terminal's
SHOWN_VALUE_CHARACTERS = 60


class PlaceType(click.ParamType):
    """TOPIC/PARTITION/OFFSET, as `list` shows it."""

    name = "id"

    def convert(self, value: str | Place, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        if isinstance(value, Place):
            return value
        topic, *numbers = value.rsplit("/", 2)
        if len(numbers) != 2 or not all(each.isascii() and each.isdigit() and len(each) < 19 for each in numbers):
            self.fail(f'"{value}" is not TOPIC/PARTITION/OFFSET', param, ctx)
        return Place(topic, int(numbers[0]), int(numbers[1]))


def escaped(content: bytes | str | None) -> str:
    """Text that is safe on a terminal: whatever is not plainly printable is shown as its escape."""
    if content is None:
        return "none"
    text = content.decode("utf-8", "backslashreplace") if isinstance(content, bytes) else content
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in text
    )


def _when(unix_ms: int | None) -> str:
    if unix_ms is None or not 0 <= unix_ms < 253_402_300_800_000:  # beyond year 9999 there is no date
        return ""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_json(stored: StoredLetter) -> dict[str, object]:
    """For machines: texts as they are, and the exact bytes beside them."""
    letter = stored.letter
    return {
        "id": str(stored.place),
        "stored_at": _when(stored.stored_ms),
        "reason": stored.reason,
        "error": letter.error if letter else None,
        "topic": stored.source,
        "partition": letter.origin.partition if letter else None,
        "offset": letter.origin.offset if letter else None,
        "appended_at": _when(letter.origin.append_time_ms) or None if letter else None,
        "redriven": letter.redriven_count if letter else 0,
        "key": _json_text(stored.key),
        "value": _json_text(stored.value),
        "value_base64": None if stored.value is None else base64.b64encode(stored.value).decode(),
        "headers": [[name, _json_text(content)] for name, content in (letter.headers if letter else stored.headers)],
    }


def _json_text(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "backslashreplace")


def _listing(letters: Sequence[StoredLetter]) -> Table:
    listing = Table(box=None, pad_edge=False, header_style="bold")
    listing.add_column("id", no_wrap=True)
    for name in ("stored", "reason", "what is wrong", "key", "value"):
        listing.add_column(name)
    for stored in letters:
        value = escaped(stored.value)
        cut = value if len(value) <= SHOWN_VALUE_CHARACTERS else value[: SHOWN_VALUE_CHARACTERS - 3] + "..."
        error = stored.letter.error if stored.letter else "not written by Touchstream"
        cells = (str(stored.place), _when(stored.stored_ms), stored.reason, error, stored.key, cut)
        # Text, for plain strings would be read for markup.
        listing.add_row(*(Text(escaped(cell)) for cell in cells))
    return listing


def _details(stored: StoredLetter) -> list[tuple[str, str]]:
    letter = stored.letter
    lines = [("id", str(stored.place)), ("stored", _when(stored.stored_ms)), ("reason", stored.reason)]
    if letter:
        meaning = MEANINGS[Reason(letter.reason)] if letter.reason in set(Reason) else ""
        numbers = [("partition", letter.origin.partition), ("offset", letter.origin.offset)]
        lines += [
            ("meaning", meaning),
            ("what is wrong", letter.error),
            ("came from", letter.origin.topic),
            *((name, "none: it never was in the topic" if number is None else str(number)) for name, number in numbers),
            ("appended", _when(letter.origin.append_time_ms) or "none"),
            ("redriven", f"{letter.redriven_count} times"),
        ]
    headers = letter.headers if letter else stored.headers
    lines += [(f"header {name}", escaped(content)) for name, content in headers]
    lines += [("key", escaped(stored.key)), ("value", escaped(stored.value))]
    return [(escaped(name), escaped(text)) for name, text in lines]


def _wanted(settings: Settings, topic: str | None, reason: str | None) -> Wanted:
    names = SOURCES if topic is None else (topic,)
    return Wanted([settings.topic_prefix + name for name in names], reason or "")


def _check_place(settings: Settings, place: Place) -> None:
    topics = [dead_letter_topic(source) for source in _wanted(settings, None, None).sources]
    if place.topic not in topics:
        raise StreamError(f'"{place.topic}" is no topic of dead letters: {", ".join(topics)}')


_LEFT_OUT = {
    "superseded": "for a newer dead letter holds the same",
    "foreign": "not written by Touchstream",
    "too_large": "larger than any event may be",
}

_TOPIC = click.option("--topic", type=click.Choice(SOURCES), help="Only those of one source topic.")
_REASON = click.option("--reason", type=click.Choice([str(each) for each in Reason]), help="Only those of one reason.")
_JSON = click.option("--json", "is_json", is_flag=True, help="JSON, with the exact bytes in base64.")


@click.group(name="dead-letters")
def command() -> None:
    """List, show and send again what could not be read."""


@command.command(name="list")
@_TOPIC
@_REASON
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest of each topic.")
@_JSON
def list_letters(topic: str | None, reason: str | None, limit: int, is_json: bool) -> None:
    """Dead letters with reason, place and the beginning of their value."""
    settings = read_settings()
    letters, total = asyncio.run(newest_letters(settings, _wanted(settings, topic, reason), limit))
    if is_json:
        click.echo(json.dumps([as_json(stored) for stored in letters], indent=1))
        return
    if letters:
        console = Console()
        if not console.is_terminal:
            console.width = PLAIN_WIDTH
        console.print(_listing(letters))
    left_out = "" if len(letters) == total else f", {len(letters):,} of them shown; --limit shows more"
    click.echo(f"{total:,} dead letters{left_out}")


@command.command()
@click.argument("place", type=PlaceType(), metavar="ID")
@_JSON
def show(place: Place, is_json: bool) -> None:
    """One dead letter whole; ID is TOPIC/PARTITION/OFFSET as `list` shows it."""
    settings = read_settings()
    _check_place(settings, place)
    stored = asyncio.run(one_letter(settings, place))
    if is_json:
        click.echo(json.dumps(as_json(stored), indent=1))
        return
    for name, text in _details(stored):
        click.echo(f"{name}: {text}")


@command.command()
@click.argument("place", type=PlaceType(), metavar="[ID]", required=False)
@_TOPIC
@_REASON
@click.option("--dry-run", "is_dry", is_flag=True, help="Say what would be sent, and send nothing.")
def redrive(place: Place | None, topic: str | None, reason: str | None, is_dry: bool) -> None:
    """Send dead letters to their topics again: one by its ID, or all that --topic and --reason leave.

    They stay where they are until their topic lets them go. What was stored meanwhile is known as a duplicate; what
    is still wrong becomes a new dead letter with the header touchstream-redriven, which counts.
    """
    if place is not None and (topic or reason):
        raise click.UsageError("give an ID, or --topic and --reason")
    settings = read_settings()
    if place is not None:
        _check_place(settings, place)
    redriving = Redrive(settings, _wanted(settings, topic, reason))
    asyncio.run(redriving.run(one=place, is_dry=is_dry))
    counts = redriving.counts
    for source in _wanted(settings, topic, reason).sources:
        click.echo(f"{source}: {counts[source]:,} {'would be sent' if is_dry else 'sent'} again")
    for name, why in _LEFT_OUT.items():
        if counts[name]:
            click.echo(f"left out, {why}: {counts[name]:,}")
