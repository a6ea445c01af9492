"""What the demo prints of the hours: who earned what under which model, and what a correction changes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid

from stream.commands.demo_models import MODELS, SEEDED
from stream.commands.demo_rows import Totals
from stream.commands.demo_run import Found
from stream.commands.demo_traffic import HOUR, SOURCES, STORIES_USER

LINEAR = "linear"
_UNSEEN = "a click not seen yet"
_STEPS = 10_000
_CORRECTIONS = {2: "late click", 4: "refund"}  # of the told conversions


def _grid(*columns: str, left: int = 1) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        is_left = place < left
        grid.add_column(
            name, justify="left" if is_left else "right", style="cyan" if place == 0 else None, no_wrap=True
        )
    return grid


def money(steps: int) -> str:
    return f"{steps / _STEPS:,.2f}" if steps else "-"


def revenue_of(totals: Totals, scope: str, *, user_id: int = 0) -> Mapping[tuple[int, str, int], int]:
    """Steps of 0.0001 by hour, model and scope id; of all accounts for user 0."""
    sums: dict[tuple[int, str, int], int] = defaultdict(int)
    for key, total in totals.items():
        if key.scope == scope and user_id in {0, key.user_id}:
            sums[key.date_hour, key.model, key.scope_id] += total.revenue
    return sums


def who_earned_it(found: Found) -> Grid:
    """Revenue by traffic source under each model, over all hours of all accounts."""
    by_source: dict[tuple[str, int], int] = defaultdict(int)
    for (_, model, source), revenue in revenue_of(found.hours.totals, "traffic_source").items():
        by_source[model, source] += revenue
    whole: dict[str, int] = defaultdict(int)
    for (_, model, _), revenue in revenue_of(found.hours.totals, "global").items():
        whole[model] += revenue
    grid = _grid("traffic source", *(model.name for model in MODELS), "Linear to Last Touch")
    for source, name in SOURCES.items():
        amounts = {model.slug: by_source[model.slug, source] for model in MODELS}
        if any(amounts.values()):
            grid.add_row(name, *map(money, amounts.values()), _change(amounts[SEEDED], amounts[LINEAR]))
    unseen = {
        model.slug: whole[model.slug] - sum(by_source[model.slug, source] for source in SOURCES) for model in MODELS
    }
    grid.add_row(_UNSEEN, *map(money, unseen.values()), _change(unseen[SEEDED], unseen[LINEAR]))
    grid.add_section()
    grid.add_row("all", *(money(whole[model.slug]) for model in MODELS), style="bold")
    return grid


def _change(before: int, after: int) -> str:
    return f"{100 * (after - before) / before:+.0f} %" if before > 0 else ""


def hours_of_the_stories(found: Found) -> Grid:
    """Hour by hour, each source's revenue under last touch and under linear."""
    hours = found.hours
    totals = {key[0]: amount for key, amount in revenue_of(hours.totals, "global", user_id=STORIES_USER).items()}
    by_source = revenue_of(hours.totals, "traffic_source", user_id=STORIES_USER)
    sources = sorted({source for _, _, source in by_source})
    grid = _grid("hour (UTC)", "revision", "revenue", *(SOURCES[each] for each in sources), left=2)
    for (user_id, hour), row in sorted(hours.hours.items()):
        if user_id == STORIES_USER:
            cells = (_pair(by_source, hour, source) for source in sources)
            revision = f"{row.revision}, {'final' if row.is_final else 'open'}"
            grid.add_row(hour_text(hour), revision, money(totals.get(hour, 0)), *cells)
    return grid


def _pair(by_source: Mapping[tuple[int, str, int], int], hour: int, source: int) -> str:
    last, linear = (by_source.get((hour, model, source), 0) for model in (SEEDED, LINEAR))
    return f"{money(last)} > {money(linear)}" if last or linear else ""


def hour_text(hour: int) -> str:
    return datetime.fromtimestamp(hour, UTC).strftime("%m-%d %H:00")


def what_changed(found: Found) -> Grid:
    """Two told corrections, and each amount of their hours that they changed."""
    grid = _grid("correction", "hour (UTC)", "revision", "traffic source", "model", "before", "after", left=5)
    before, after = (
        revenue_of(totals, "traffic_source", user_id=STORIES_USER)
        for totals in (found.hours.totals_before, found.hours.totals)
    )
    for conv_id, what in _CORRECTIONS.items():
        hour = found.traffic.conversions[conv_id]["conv_time"] // HOUR * HOUR
        told = (
            what,
            hour_text(hour),
            f"{_revision(found, hour, is_before=True)} > {_revision(found, hour, is_before=False)}",
        )
        for (_, model, source), (was, now) in _changes(before, after, hour):
            name = next(each.name for each in MODELS if each.slug == model)
            grid.add_row(*told, SOURCES[source], name, money(was), money(now))
            told = ("", "", "")
        grid.add_section()
    return grid


def _revision(found: Found, hour: int, *, is_before: bool) -> int:
    row = (found.hours.before if is_before else found.hours.hours).get((STORIES_USER, hour))
    return row.revision if row else 0


def _changes(
    before: Mapping[tuple[int, str, int], int], after: Mapping[tuple[int, str, int], int], hour: int
) -> Iterator[tuple[tuple[int, str, int], tuple[int, int]]]:
    for key in sorted(before.keys() | after.keys()):
        amounts = before.get(key, 0), after.get(key, 0)
        if key[0] == hour and key[1] in {SEEDED, LINEAR} and amounts[0] != amounts[1]:
            yield key, amounts
