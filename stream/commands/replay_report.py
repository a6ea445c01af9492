"""What a replay says: lines on STDOUT, a bar on STDERR where somebody sees it, and one object for machines."""

import sys
import time
from collections import Counter
from collections.abc import Mapping

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stream.commands.replay_plan import Wish
from stream.commands.replay_refused import Failure, Teller
from stream.commands.showing import utc

NEWS_S = 5.0


class Telling(Teller):
    """Counts of all processes together. A context manager, for the bar."""

    def __init__(self, wish: Wish, *, is_silent: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: dict[int, str] = {}  # by conversion
        self.refused_clicks: dict[int, Failure] = {}
        self._wish = wish
        self._is_silent = is_silent
        self._news_at = 0.0
        self._begun_at = time.monotonic()
        self._unit = ""
        self._before = 0  # of that unit, in rounds before this one
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task: TaskID | None = None

    def __enter__(self) -> "Telling":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin_round(self, unit: str, total: int) -> None:
        """`unit`: what is counted in it, "records" or "conversions". `total`: what is left to do."""
        self._unit = unit
        self._before = self.counts[unit]
        self._begun_at = time.monotonic()
        self._news_at = self._begun_at + NEWS_S
        if self._bar is not None:
            if self._task is not None:
                self._bar.refresh()  # its end
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(unit, total=total, rate="")

    def counted(self, counts: Mapping[str, int]) -> None:
        self.counts.update(counts)
        done, now = self.counts[self._unit] - self._before, time.monotonic()
        rate = f"{done / max(now - self._begun_at, 0.001):,.0f}/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rate=rate)
        if now >= self._news_at:
            self.say(f"Processed {done:,} {self._unit}, {rate}")
            self._news_at = now + NEWS_S

    def failed(self, failure: Failure) -> None:
        """On STDERR a line, at once: whoever breaks this off has read it."""
        click.echo(str(failure), err=True)
        if failure.conv_id:
            self.errors[failure.conv_id] = failure.reason
        else:
            self.refused_clicks[failure.click_id] = failure

    def failures(self) -> str:
        """How many of what kind, or nothing."""
        if not self.errors and not self.refused_clicks:
            return ""
        clicks = f" and {len(self.refused_clicks):,} clicks" if self.refused_clicks else ""
        return f"{len(self.errors):,} conversions{clicks} failed"

    def ended(self) -> None:
        counts = self.counts
        if counts["cache_failures"]:
            click.echo(f"warning: {counts['cache_failures']:,} entries of memcached may be old", err=True)
        self.say(
            f"log: {counts['records']:,} records, {counts['new_clicks']:,} clicks and {counts['new_conversions']:,}"
            f" conversions were missing, {counts['revised']:,} revised; {counts['unreadable']:,} unreadable,"
            f" {counts['refused']:,} refused"
        )
        whose = (
            "".join(f" for user {user_id}" for user_id in self._wish.users[:1]) if len(self._wish.users) == 1 else ""
        )
        self.say(
            f"Processed {counts['conversions']:,} conversions with {counts['touchpoints']:,} touchpoints from"
            f" {utc(self._wish.start)} to {utc(self._wish.end)}{whose}; {counts['written']:,} written"
        )

    def say(self, line: str) -> None:
        if not self._is_silent:
            click.echo(line)

    def as_json(self, run_id: int) -> dict[str, object]:
        names = (
            "records",
            "new_clicks",
            "new_conversions",
            "revised",
            "unreadable",
            "refused",
            "conversions",
            "touchpoints",
            "written",
        )
        return {
            "ok": not self.failures(),
            "run_id": run_id,
            "start": self._wish.start,
            "end": self._wish.end,
            "users": list(self._wish.users),
            **{name: self.counts[name] for name in names},
            "errors": [{"conv_id": conv_id, "error": reason} for conv_id, reason in sorted(self.errors.items())],
            "refused_clicks": [
                {
                    "click_id": click_id,
                    "topic": failure.topic,
                    "partition": failure.partition,
                    "offset": failure.offset,
                    "error": failure.reason,
                }
                for click_id, failure in sorted(self.refused_clicks.items())
            ],
        }


def _bar() -> Progress:
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
