"""Is what the demo found right? Against a plain count over all that was sent."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stream.commands.demo_expected import Expected, expected_rows
from stream.commands.demo_expected_hours import expected_hours
from stream.commands.demo_models import MODELS
from stream.commands.demo_rows import ShownJourney
from stream.commands.demo_run import Found
from stream.commands.demo_traffic import HOUR

_STEPS_A_CENT = 100


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    what: str
    expected: int
    found: int

    @property
    def is_well(self) -> bool:
        return self.expected == self.found


def checks_of(found: Found) -> Iterator[Check]:
    """What is there against a plain count over all that was sent."""
    traffic, numbers = found.traffic, found.numbers
    expected = expected_rows(traffic)
    touchpoints = found.rows.touchpoints()
    outcomes = {conv_id: journey.outcome for conv_id, journey in found.journeys.items()}
    yield Check("clicks", len(traffic.clicks), found.rows.count("202_stream_clicks"))
    yield Check("conversions", len(traffic.conversions), len(outcomes))
    same = sum(outcomes.get(conv_id) == outcome for conv_id, outcome in expected.outcomes.items())
    yield Check("conversions that are counted, deleted or duplicate, as they should be", len(expected.outcomes), same)
    same = sum(touchpoints.get(conv_id) == touches for conv_id, touches in expected.touches.items())
    yield Check("journeys with just the right clicks, in the right order", len(expected.touches), same)
    yield Check("touchpoints", sum(map(len, expected.touches.values())), sum(map(len, touchpoints.values())))
    logged = len(found.rows.logged() & expected.touches.keys())
    yield Check("conversions in 202_conversion_logs: all that count", len(expected.touches), logged)
    yield Check("... and no other", len(expected.touches), found.rows.count("202_conversion_logs"))
    reasons = Counter(letter.reason for letter in found.letters)
    yield Check("dead letters", traffic.refused.total(), reasons.total())
    yield Check("... each with the right reason", traffic.refused.total(), (reasons & traffic.refused).total())
    # Should a chunk be delivered again, its events are counted again: at least, not exactly.
    kinds = Counter(sample.kind for sample in traffic.samples())
    for what, kind, counted in [
        ("duplicates recognised", "the same again", numbers.total("events_total", outcome="duplicate")),
        ("records sent on to their partition", "on a wrong partition", numbers.total("misrouted_total")),
    ]:
        yield Check(what, kinds[kind], min(kinds[kind], int(counted)))
    yield from _checks_of_hours(found, expected)
    yield Check("records still waiting", 0, int(numbers.total("lag_records")))


def _checks_of_hours(found: Found, expected: Expected) -> Iterator[Check]:
    totals, credits = expected_hours(found.traffic, expected)
    hours = found.hours
    yield from _same("totals of hours, by model and scope", totals, hours.totals)
    yield from _same("credits of touches, by model", credits, hours.credits)
    earned = sum(round(found.traffic.conversions[conv_id]["click_payout"] * 100) for conv_id in expected.touches)
    for model in MODELS:
        steps = sum(
            total.revenue for key, total in hours.totals.items() if (key.model, key.scope) == (model.slug, "global")
        )
        whole, rest = divmod(steps, _STEPS_A_CENT)
        yield Check(f"cents that {model.name} gives: those of the counted payouts", earned, whole if not rest else -1)
    yield from checks_of_revisions(found)
    yield from _same("totals that a reader of their topic holds", hours.totals, hours.published_totals)
    yield from _same("credits that a reader of their topic holds", hours.credits, hours.published_credits)


def _same(what: str, wanted: Mapping[Any, Any], found: Mapping[Any, Any]) -> Iterator[Check]:
    """Of equal length and with the same value for each key."""
    yield Check(what, len(wanted), sum(found.get(key) == value for key, value in wanted.items()))
    yield Check("... and no other", len(wanted), len(found))


def corrected_hours(found: Found) -> frozenset[tuple[int, int]]:
    """Account and hour of each conversion whose journey changed, and that counted before or after that."""
    hours = set()
    for conv_id, after in found.journeys.items():
        before = found.before.get(conv_id)
        if before is None or before.version != after.version:
            user_id = found.traffic.conversions[conv_id]["user_id"]
            hours |= {(user_id, each.conv_time // HOUR * HOUR) for each in (before, after) if each and _counts(each)}
    return frozenset(hours)


def _counts(journey: ShownJourney) -> bool:
    return journey.outcome == "counted"


def checks_of_revisions(found: Found) -> Iterator[Check]:
    before, after = found.hours.before, found.hours.hours
    corrected = corrected_hours(found)
    moved = set()
    for key, hour in after.items():
        was = before.get(key)
        became_final = hour.is_final and not (was and was.is_final)
        # Becoming final is a revision too; one that a correction brings along is not counted twice.
        more = hour.revision - (was.revision if was else 0)
        if more > became_final or (more and key in corrected):
            moved.add(key)
    yield Check("hours that a correction gave another revision", len(corrected), len(moved & corrected))
    yield Check("... and no other", len(corrected), len(moved))
