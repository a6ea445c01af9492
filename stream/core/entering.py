"""Which stored conversions a click can enter: a range of conversion times for each journey key."""

from collections.abc import Iterable

from stream.core.facts import EnteredNeed, Journey
from stream.core.keys import JourneyKey


class Entering:
    """Ranges of one chunk, joined where they overlap, so that a burst of late clicks asks once."""

    def __init__(self, needs: Iterable[EnteredNeed]) -> None:
        self.needs: list[EnteredNeed] = []
        self._by_key: dict[JourneyKey, list[EnteredNeed]] = {}
        for need in sorted(needs):
            last = self.needs[-1] if self.needs else None
            if last is not None and last.key == need.key and need.since <= last.until:
                self.needs[-1] = last._replace(until=max(last.until, need.until))
            else:
                self.needs.append(need)
        for need in self.needs:
            self._by_key.setdefault(need.key, []).append(need)

    def covers(self, journey: Journey) -> bool:
        conv_time = journey.conversion.conv_time
        return any(need.since <= conv_time <= need.until for need in self._by_key.get(journey.key, ()))
