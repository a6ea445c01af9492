"""SQL's part of a fold, in dicts: the twin that core's tests and the simulation use. No transactions, no fence."""

from collections.abc import Callable, Generator, Mapping, Sequence

from stream.core.events import Click
from stream.core.facts import EnteredNeed, Facts, HistoryNeed, Journey, Needs, Touch, touch_of
from stream.core.fold import ClaimClicks, FoldAnswer, FoldStep, ReplaceClicks
from stream.core.folding import Folded
from stream.core.keys import journey_key_of_click


class MemoryFacts:
    """Obvious full scans; small sets only."""

    def __init__(self) -> None:
        self.clicks: dict[int, Click] = {}
        self.journeys: dict[int, Journey] = {}
        self.credited_versions: Callable[[], Mapping[int, int]] = dict  # by conversion, what hours hold credits of

    def copy(self) -> "MemoryFacts":
        twin = MemoryFacts()
        twin.clicks, twin.journeys = dict(self.clicks), dict(self.journeys)
        twin.credited_versions = self.credited_versions
        return twin

    def run(self, folding: Generator[FoldStep, FoldAnswer, Folded]) -> Folded:
        answer: FoldAnswer = None
        while True:
            try:
                step = folding.send(answer)
            except StopIteration as stop:
                folded: Folded = stop.value
                return folded
            answer = self.perform(step)

    def perform(self, step: FoldStep) -> FoldAnswer:
        if isinstance(step, ClaimClicks):
            stored = {
                click.click_id: self.clicks[click.click_id] for click in step.clicks if click.click_id in self.clicks
            }
            self.clicks.update((click.click_id, click) for click in step.clicks if click.click_id not in stored)
            return stored
        if isinstance(step, ReplaceClicks):
            self.clicks.update((click.click_id, click) for click in step.clicks)
            return None
        return self.read(step.needs)

    def read(self, needs: Needs) -> Facts:
        journeys = {
            conv_id: journey
            for conv_id, journey in self.journeys.items()
            if conv_id in needs.conversions
            or journey.conversion.click_id in needs.conversions_of_clicks
            or any(_is_entered(journey, need) for need in needs.entered)
        }
        clicks = {click_id: self.clicks[click_id] for click_id in needs.clicks if click_id in self.clicks}
        gone = needs.conversions - self.journeys.keys() if needs.with_credited else ()
        versions = self.credited_versions() if gone else {}
        credited = {conv_id: versions[conv_id] for conv_id in gone if conv_id in versions}
        return Facts(journeys, clicks, {need: self._history(need) for need in needs.histories}, credited)

    def _history(self, need: HistoryNeed) -> Sequence[Touch]:
        touches = [
            touch_of(click)
            for click in self.clicks.values()
            if journey_key_of_click(click) == need.key
            and (click.click_time, click.click_id) <= need.until
            and not (need.key.names_visitor and click.click_bot)
        ]
        return sorted(touches, reverse=True)[: need.limit]

    def write(self, journeys: Sequence[Journey]) -> None:
        self.journeys.update((journey.conversion.conv_id, journey) for journey in journeys)

    def touchpoints(self) -> list[tuple[int, int, int, int]]:
        """(conv_id, position, click_id, click_time), as the rows of 202_conversion_touchpoints."""
        return sorted(
            (conv_id, position, touch.click_id, touch.click_time)
            for conv_id, journey in self.journeys.items()
            for position, touch in enumerate(journey.touches)
        )


def _is_entered(journey: Journey, need: EnteredNeed) -> bool:
    return journey.key == need.key and need.since <= journey.conversion.conv_time <= need.until
