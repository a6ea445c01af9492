"""What a rebuild says: lines on STDOUT, a bar on STDERR where somebody sees it, and one object for machines."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stream.commands.dead_letters import escaped
from stream.commands.showing import utc
from stream.core.hours import HOUR_SECONDS, Hour
from stream.core.money import Units, amount_text
from stream.core.totals import NOTHING, Scope, Total

NEWS_S = 5.0


class WindowOfHours(NamedTuple):
    """Whole hours, the end excluded; unix seconds."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{utc(self.start)} to {utc(self.end)}"


def hours_touched(start: int, end: int) -> WindowOfHours:
    return WindowOfHours(start - start % HOUR_SECONDS, -(-end // HOUR_SECONDS) * HOUR_SECONDS)


@dataclass(slots=True)
class AccountReport:
    """What became of one account."""

    user_id: int
    is_skipped: bool = False  # the window had been processed already
    error: str = ""
    hours_total: int = 0
    hours_done: int = 0
    conversions: int = 0
    by_model: dict[int, Total] = field(default_factory=dict)  # sums over the hours
    hours_by_model: dict[int, int] = field(default_factory=dict)  # those with conversions

    def add(self, hour: Hour | None, problems: Mapping[int, str]) -> None:
        """`hour` as it was written; None: there was nothing to write. `problems`: models without results in it."""
        self.hours_done += 1
        if hour is None:
            return
        self.conversions += len(hour)
        for key, total in hour.totals.items():
            if key.scope is Scope.GLOBAL and key.model_id not in problems:
                self.by_model[key.model_id] = self.by_model.get(key.model_id, NOTHING).plus(total, 1)
                self.hours_by_model[key.model_id] = self.hours_by_model.get(key.model_id, 0) + 1

    @property
    def credits(self) -> int:
        return sum(total.clicks for total in self.by_model.values())

    @property
    def revenue(self) -> Units:
        """What every model shares out: the same for each of them, unless one has no results in some hour."""
        return max((total.revenue for total in self.by_model.values()), default=Units(0), key=abs)

    @property
    def cost(self) -> Units:
        return max((total.cost for total in self.by_model.values()), default=Units(0), key=abs)

    def audited(self, model_id: int, start: int, end: int) -> dict[str, object]:
        """Names that readers of the old rebuild's audit rows know."""
        total = self.by_model.get(model_id, NOTHING)
        return {
            "lookback_start": start,
            "lookback_end": end,
            "batches": self.hours_total,
            "hours_processed": self.hours_by_model.get(model_id, 0),
            "clicks": total.clicks,
            "conversions": total.conversions,
            "revenue": amount_text(total.revenue),
            "cost": amount_text(total.cost),
        }

    def as_json(self) -> dict[str, object]:
        return {
            "user_id": self.user_id,
            "state": "failed" if self.error else "already processed" if self.is_skipped else "rebuilt",
            "error": self.error or None,
            "hours": self.hours_done,
            "conversions": self.conversions,
            "credits": self.credits,
            "revenue": amount_text(self.revenue),
            "cost": amount_text(self.cost),
        }


def report_json(window: WindowOfHours, reports: Sequence[AccountReport]) -> dict[str, object]:
    return {
        "ok": not any(report.error for report in reports),
        "start": window.start,
        "start_utc": utc(window.start),
        "end": window.end,
        "end_utc": utc(window.end),
        "users": [report.as_json() for report in reports],
    }


class Telling:
    """What is said while it goes on. A context manager, for the bar."""

    def __init__(self, window: WindowOfHours, *, is_silent: bool) -> None:
        self._window = window
        self._is_silent = is_silent
        self._news_at = 0.0
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task: TaskID | None = None

    def __enter__(self) -> "Telling":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def waiting(self, user_id: int, owner: str) -> None:
        self._say(
            f"user {user_id}: another rebuild of this window is at work ({escaped(owner)}); waiting for it to end"
        )

    def begin(self, report: AccountReport, *, hours_total: int) -> None:
        report.hours_total = hours_total
        self._news_at = time.monotonic() + NEWS_S
        if self._bar is not None:
            self._task = self._bar.add_task(f"user {report.user_id}", total=hours_total)

    def advance(self, report: AccountReport) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=report.hours_done)
        if time.monotonic() >= self._news_at:
            self._say(
                f"user {report.user_id}: {report.hours_done:,} of {report.hours_total:,} hours,"
                f" {report.conversions:,} conversions"
            )
            self._news_at = time.monotonic() + NEWS_S

    def end(self, report: AccountReport) -> None:
        """Of an account that has not failed."""
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        if report.is_skipped:
            self._say(f"user {report.user_id}: already processed: {self._window}; --force does it again")
            return
        self._say(
            f"user {report.user_id}: {report.hours_done:,} hours, {report.conversions:,} conversions,"
            f" {report.credits:,} credits, revenue {amount_text(report.revenue)}"
        )
        if report.conversions and not report.by_model:
            self._say(f"user {report.user_id}: no active model that can be computed: nothing is attributed")

    def failed(self, report: AccountReport) -> None:
        click.echo(f"User {report.user_id}: {escaped(report.error)}", err=True)

    def all_ended(self, reports: Sequence[AccountReport]) -> None:
        skipped = sum(report.is_skipped for report in reports)
        if not reports:
            self._say("no users: nothing to rebuild")
        elif skipped == len(reports):
            self._say(f"already processed: {_users(skipped)}, {self._window}")
        else:
            besides = f"; already processed before: {_users(skipped)}" if skipped else ""
            self._say(f"rebuilt {_users(len(reports) - skipped)}, {self._window}{besides}")

    def _say(self, line: str) -> None:
        if not self._is_silent:
            click.echo(line)


def _users(count: int) -> str:
    return "1 user" if count == 1 else f"{count:,} users"


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
