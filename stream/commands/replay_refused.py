"""What the database refuses alone: named at once, noted with its partition, and tried again when the run goes on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stream.commands.dead_letters import escaped
from stream.core.errors import StreamError
from stream.core.events import Click, Conversion
from stream.engine.chunk import Arrival

MOST_REFUSED = 1000  # of a partition and round: with more, it is not the data that is at fault


class Failure(NamedTuple):
    """A conversion, or, with `conv_id` 0, a click. `topic` is empty where it was not read of the log."""

    conv_id: int
    click_id: int
    topic: str
    partition: int
    offset: int
    reason: str

    def __str__(self) -> str:
        which = f"conversion {self.conv_id}" if self.conv_id else f"click {self.click_id}"
        where = f" ({self.topic} partition {self.partition} offset {self.offset})" if self.topic else ""
        return f"{which}: {escaped(self.reason)}{where}"


class Teller:
    """Whoever hears of the work: this process's own terminal, or the one that started it."""

    def counted(self, counts: Mapping[str, int]) -> None:
        """More of each."""

    def failed(self, failure: Failure) -> None:
        """The database refuses it; the others go on."""


class Refused:
    """Of a partition, in one round. `entries` are what finds them again, as they stand in the place of the run."""

    def __init__(self, name: str, partition: int, teller: Teller) -> None:
        self._name = name
        self._partition = partition
        self._teller = teller
        self.entries: list[Sequence[object]] = []

    def take(self, entry: Sequence[object], failure: Failure) -> None:
        """Raises StreamError where there are too many: nothing behind the last place is forgotten then."""
        self._teller.failed(failure)
        if len(self.entries) >= MOST_REFUSED:
            raise StreamError(
                f"partition {self._partition}: the database refuses more than {MOST_REFUSED:,} of its records",
                hint="mend the database, and the same command goes on",
            )
        self.entries.append(list(entry))

    def noted_in(self, place: Mapping[str, object]) -> dict[str, object]:
        """The place, with what is refused until now."""
        others = {name: value for name, value in place.items() if name != self._name}
        return {**others, self._name: list(self.entries)} if self.entries else others


def failure_of(arrival: Arrival, reason: str) -> Failure:
    """Of a record of the log that is stored neither alone."""
    event, record = arrival.content, arrival.record
    assert isinstance(event, Click | Conversion), "nothing else is stored"
    conv_id = event.conv_id if isinstance(event, Conversion) else 0
    return Failure(conv_id, event.click_id, record.topic, record.partition, record.offset, reason)
