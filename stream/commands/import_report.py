"""What an import says: lines on STDOUT, a bar on STDERR where somebody sees it, and one object for machines."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stream.commands.dead_letters import escaped
from stream.commands.import_source import IS_CLICK, Entry, LeftOut
from stream.commands.showing import utc

NEWS_S = 5.0


class Telling:
    """Counts what was sent. A context manager, for the bar."""

    def __init__(self, source: str, *, is_silent: bool, is_dry: bool) -> None:
        self.left_out = LeftOut(self.warn)
        self.sent: Counter[int] = Counter()  # by kind
        self.changed = 0  # those of them that had been sent before, with another content
        self._source = source
        self._is_silent = is_silent
        self._is_dry = is_dry
        self._first: int | None = None
        self._last: int | None = None
        self._total = 0
        self._begun_at = self._news_at = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task: TaskID | None = None

    def __enter__(self) -> "Telling":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, total: int) -> None:
        """`total`: about so many rows lie ahead."""
        self._total = self.sent.total() + total
        self._begun_at = time.monotonic()
        self._news_at = self._begun_at + NEWS_S
        if self._bar is not None and self._task is None:
            self._task = self._bar.add_task("", total=self._total, rate="")

    def add(self, entries: Sequence[Entry], *, is_change: bool = False) -> None:
        """These are in the log now."""
        self.sent.update(entry.kind for entry in entries)
        self.changed += len(entries) * is_change
        times = [entry.time for entry in entries]
        self._first = min([*times, *([] if self._first is None else [self._first])], default=None)
        self._last = max([*times, *([] if self._last is None else [self._last])], default=None)
        self._show()

    def _show(self) -> None:
        done, now = self.sent.total(), time.monotonic()
        rate = done / max(now - self._begun_at, 0.001)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:,.0f} rows/s")
        if now >= self._news_at:
            left = max(0, self._total - done)
            ahead = f", about {timedelta(seconds=round(left / rate))} left" if left and rate else ""
            self.say(f"{done:,} rows {self._verb}, {rate:,.0f} rows/s{ahead}, now at {utc(self._last)}")
            self._news_at = now + NEWS_S

    def first_pass_ended(self) -> None:
        """What follows has no end, and no bar."""
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def say(self, line: str) -> None:
        if not self._is_silent:
            click.echo(line)

    def warn(self, line: str) -> None:
        click.echo(escaped(line), err=True)

    @property
    def _verb(self) -> str:
        return "would be sent" if self._is_dry else "sent"

    def ended(self) -> None:
        clicks, conversions = self.sent[IS_CLICK], self.sent.total() - self.sent[IS_CLICK]
        times = f", {utc(self._first)} to {utc(self._last)}" if self._first is not None else ""
        self.say(f"{self._source}: {clicks:,} clicks and {conversions:,} conversions {self._verb}{times}")
        if self.changed:
            self.say(f"{self.changed:,} of them had changed since they were sent before")
        for line in self.left_out.lines():
            self.say(line)

    def as_json(self, *, is_ok: bool) -> dict[str, object]:
        return {
            "ok": is_ok,
            "source": self._source,
            "dry_run": self._is_dry,
            "clicks": self.sent[IS_CLICK],
            "conversions": self.sent.total() - self.sent[IS_CLICK],
            "changed": self.changed,
            "refused": dict(self.left_out.refused),
            "doubles": self.left_out.doubles,
            "first": self._first,
            "last": self._last,
        }


def _bar() -> Progress:
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("importing"), BarColumn(), rate, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
