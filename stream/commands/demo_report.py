"""What the demo prints: journeys drawn as a line of touches, counts, and where to look further."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from stream.clock import unix_now
from stream.commands.demo_checks import Check, corrected_hours
from stream.commands.demo_hours import hours_of_the_stories, what_changed, who_earned_it
from stream.commands.demo_parts import Numbers
from stream.commands.demo_rows import ShownJourney, outcome_counts
from stream.commands.demo_run import Found
from stream.commands.demo_traffic import DAY, HOUR, MINUTE, SOURCES, USERS, Traffic
from stream.commands.letters import StoredLetter
from stream.topics import CLICKS, CONVERSIONS
from stream.wire.reasons import MEANINGS, Reason

WIDTH = 100
_SHOWN_CHARACTERS = 92


class Report:
    """Lines with the seconds since the demo began, and tables between them."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal or self.console.width > WIDTH:
            self.console.width = WIDTH
        self._arrow = " --> " if self.console.options.ascii_only else " ──▶ "
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def line(self, text: str) -> None:
        """Progress: plain, and at once, also into a pipe."""
        self.console.print(Text.assemble((f"{self.seconds:5.1f} s  ", "dim"), text), soft_wrap=True)
        self.console.file.flush()

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.rule(Text(text, style="bold"), align="left", style="dim")

    def show(self, content: RenderableType) -> None:
        self.console.print(Padding(content, (0, 0, 0, 1)))

    def show_all(self, found: Found, checks: Sequence[Check]) -> None:
        self.sent(found.traffic)
        self.stories(found)
        self.hours(found)
        self.outcomes(found)
        self.numbers(found.numbers)
        self.dead_letters(found.letters)
        self.checks(checks)

    def sent(self, traffic: Traffic) -> None:
        self.heading("What was sent")
        counts: dict[str, Counter[str]] = {}
        for sample in traffic.samples():
            counts.setdefault(sample.kind, Counter())[sample.topic] += 1
        grid = _grid("", "clicks", "conversions", "all")
        for kind, count in counts.items():
            grid.add_row(kind, *_numbers(count[CLICKS], count[CONVERSIONS], count.total()))
        both = [sum(count[topic] for count in counts.values()) for topic in (CLICKS, CONVERSIONS)]
        grid.add_section()
        grid.add_row("all", *_numbers(*both, sum(both)), style="bold")
        self.show(grid)

    def stories(self, found: Found) -> None:
        self.heading("Some journeys, with the time from each touch to the conversion")
        for story in found.traffic.stories:
            parts: list[RenderableType] = []
            for conv_id in story.conv_ids:
                before, after = found.before.get(conv_id), found.journeys.get(conv_id)
                is_corrected = before is not None and before != after
                if is_corrected:
                    parts.append(self._journey("before", before))
                parts.append(self._journey("after" if is_corrected else "", after))
            parts.append(Text(story.moral, style="italic dim"))
            self.show(Panel(Group(*parts), title=Text(story.title, style="bold"), title_align="left", box=ROUNDED))

    def _journey(self, label: str, journey: ShownJourney | None) -> RenderableType:
        """Names above, times below, an arrow between."""
        if journey is None:
            return Text("not in the database", style="bold red")
        # The converting click of an unknown click has no source of its own.
        names = [_source(touch.source, is_known=not journey.click_unknown) for touch in journey.touches]
        times = [f"{_span(journey.conv_time - touch.click_time)} before" for touch in journey.touches]
        names.append(f"${journey.payout:,.2f}")
        times.append(f"conversion {journey.conv_id}")
        upper, lower = Text(), Text()
        for place, (name, span) in enumerate(zip(names, times, strict=True)):
            is_last = place == len(names) - 1
            width = 0 if is_last else max(len(name), len(span))
            upper.append(f"{name:<{width}}", style=_style_of_money(journey) if is_last else "cyan")
            lower.append(f"{span:<{width}}", style="dim")
            if not is_last:
                upper.append(self._arrow)
                lower.append(" " * len(self._arrow))
        upper.append(_remark(journey), style="yellow")
        if not label:
            return Group(upper, lower)
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=6, style="bold")
        grid.add_column()
        grid.add_row(label, Group(upper, lower))
        return grid

    def hours(self, found: Found) -> None:
        count = len(found.hours.hours)
        self.heading(f"Who earned it: revenue of {count:,} hours of {len(USERS)} accounts, by traffic source and model")
        self.show(who_earned_it(found))
        self.heading("The hours of the journeys above: revenue under Last Touch > under Linear")
        self.show(hours_of_the_stories(found))
        self.heading(
            f"Two of the corrections; all of them came to {len(corrected_hours(found)):,} hours, and to no other"
        )
        self.show(what_changed(found))

    def outcomes(self, found: Found) -> None:
        self.heading("What stands in SQL")
        journeys = found.journeys
        outcomes = outcome_counts(journeys)
        earned = sum(journey.payout for journey in journeys.values() if journey.outcome == "counted")
        grid = _grid("", "rows", "")
        for relation, remark in [
            ("202_stream_clicks", "each click once, however often it was sent"),
            ("202_stream_journeys", ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())),
            ("202_conversion_touchpoints", "what Prosper202 reads: their clicks, by position"),
            ("202_conversion_logs", f"what counts, ${earned:,.2f} in all"),
            ("202_attribution_snapshots", "totals by hour, model and scope"),
            ("202_attribution_touchpoints", "credits by hour, model, conversion and touch"),
        ]:
            grid.add_row(relation, f"{found.rows.count(relation):,}", remark)
        self.show(grid)

    def numbers(self, numbers: Numbers) -> None:
        self.heading("What the worker counted (its /metrics)")
        grid = _grid("", "", "")
        lookups = numbers.by_label("sql_lookups_total", "reason")
        watermark = numbers.greatest("watermark_seconds")
        moment = datetime.fromtimestamp(watermark, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        again = numbers.total("events_total", outcome="duplicate")
        revised = numbers.total("events_total", outcome="revised")
        wrote = int(numbers.total("journeys_written_total"))
        for name, value, remark in [
            ("lag", f"{numbers.total('lag_records'):,.0f}", "records of the log that are not yet in SQL"),
            (
                "watermark",
                _span(max(0, int(unix_now() - watermark))),
                f"behind the clock: all up to {moment} is in",
            ),
            ("chunks", f"{numbers.total('chunk_records_count'):,.0f}", _chunk_remark(numbers)),
            ("duplicates", f"{again:,.0f}", "events that were there already: no row changed"),
            ("revisions", f"{revised:,.0f}", "events that replaced an earlier report of theirs"),
            ("corrections", f"{numbers.total('journeys_corrected_total'):,.0f}", _of("journeys written", wrote)),
            ("sent on", f"{numbers.total('misrouted_total'):,.0f}", "records that lay on a wrong partition"),
            ("look-ups", f"{sum(lookups.values()):,.0f}", f"in SQL, where state had no answer: {_counts(lookups)}"),
        ]:
            grid.add_row(name, value, remark)
        self.show(grid)

    def dead_letters(self, letters: Sequence[StoredLetter]) -> None:
        self.heading("Dead letters: what could not be read, kept with its reason")
        grid = _grid("", "", "")
        for reason, count in Counter(letter.reason for letter in letters).most_common():
            grid.add_row(reason, str(count), MEANINGS[Reason(reason)] if reason in set(Reason) else "")
        self.show(grid)
        example = next((each for each in letters if each.letter and each.reason == Reason.TOO_MANY_DECIMALS), None)
        if example is not None and example.letter is not None:
            value = (example.value or b"").decode("utf-8", "replace")
            self.show(Text.assemble(("for example ", "dim"), (str(example.place), "cyan"), f": {example.letter.error}"))
            shown = value if len(value) <= _SHOWN_CHARACTERS else value[: _SHOWN_CHARACTERS - 3] + "..."
            self.show(Text(f"  {shown}", style="dim"))

    def checks(self, checks: Sequence[Check]) -> None:
        self.heading("What was checked, against a plain count over all that was sent")
        grid = _grid("", "expected", "found", "")
        for check in checks:
            verdict = Text("ok", style="green") if check.is_well else Text("WRONG", style="bold red")
            grid.add_row(check.what, f"{check.expected:,}", f"{check.found:,}", verdict)
        self.show(grid)

    def commands(self, lines: Sequence[tuple[str, str]]) -> None:
        self.heading("To look further")
        width = max(len(command) for command, _ in lines)
        for command, remark in lines:
            text = Text.assemble("  ", (f"{command:<{width}}", "bold"), ("  # " + remark, "dim"))
            self.console.print(text, soft_wrap=True)


def _grid(first: str, *others: str) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, show_header=any((first, *others)), pad_edge=False, show_edge=False)
    grid.add_column(first, style="cyan", no_wrap=True)
    for place, name in enumerate(others):
        is_remark = place == len(others) - 1 and not name
        grid.add_column(name, justify="left" if is_remark else "right", no_wrap=not is_remark)
    return grid


def _numbers(*values: int) -> list[str]:
    return [f"{value:,}" if value else "" for value in values]


def _source(number: int, *, is_known: bool) -> str:
    return SOURCES.get(number, f"source {number}") if number or is_known else "a click not seen yet"


def _style_of_money(journey: ShownJourney) -> str:
    return "bold green" if journey.outcome == "counted" else "strike dim"


def _remark(journey: ShownJourney) -> str:
    if journey.outcome != "counted":
        return f"  {journey.outcome}: earns nothing"
    return ""


def _span(seconds: int) -> str:
    """In the largest unit that fits: `3 h`."""
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _chunk_remark(numbers: Numbers) -> str:
    chunks = numbers.total("chunk_records_count")
    records = numbers.total("chunk_records_sum")
    mean = records / chunks if chunks else 0
    sql = numbers.total("step_seconds_sum", step="sql")
    return f"of {mean:,.0f} records on average; {sql:.1f} s of their time in SQL"


def _of(what: str, count: int) -> str:
    return f"journeys that were stored before and changed, of {count:,} {what}"


def _counts(counts: Mapping[str, float]) -> str:
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    return ", ".join(f"{name.replace('_', ' ')} {value:,.0f}" for name, value in ordered)
