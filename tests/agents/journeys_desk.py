"""A worker's journeys handler on a database in memory, chunk by chunk, with all that it left in sight."""

from collections.abc import Mapping, Sequence

from aiokafka.structs import ConsumerRecord

from stream.agents.journeys import JourneysHandler, JourneysSettings
from stream.agents.outputs import TopicNames
from stream.agents.reading import EventReader
from stream.core.events import Click, Conversion
from stream.core.keys import JourneyKey, partition_of
from stream.core.money import Units
from stream.engine.barrier import Stored
from stream.engine.chunk import Arrival, Chunk
from stream.engine.start import LogPlace
from stream.metrics import Metrics
from stream.wire.encoding import encode_click, encode_conversion
from tables.state.journeys import encode_key
from tests.agents.watched_store import WatchedStore

DAY = 86_400
NOW = 1_800_000_000
NAMES = TopicNames("t-clicks", "t-conversions", "t-journeys", 4, 2)
HOME = partition_of(1, 11, NAMES.partitions)
ELSEWHERE_CAMPAIGN = next(each for each in range(12, 99) if partition_of(1, each, NAMES.partitions) != HOME)
ELSEWHERE = partition_of(1, ELSEWHERE_CAMPAIGN, NAMES.partitions)
KEY = encode_key(JourneyKey(1, 11, ""))

CLICK = Click(5, 1, 11, NOW - 100, Units(0), "", 0, 0, 0, 0, 0, 0, 0, 0)
CONVERSION = Conversion(9, 5, 1, 11, NOW - 100, NOW - 50, Units(1_000_000), None, "", "", 0, 0, 0)


class Kept:
    """Remembered states; the barrier puts in what a chunk left."""

    def __init__(self) -> None:
        self.states: dict[int, dict[bytes, bytes]] = {}

    def get_state(self, partition: int, key: bytes) -> bytes | None:
        return self.states.get(partition, {}).get(key)

    def oldest_keys(self, partition: int, count: int) -> list[bytes]:
        return list(self.states.get(partition, {}))[:count]

    def put(self, partition: int, states: Mapping[bytes, bytes | None]) -> None:
        kept = self.states.setdefault(partition, {})
        for key, value in states.items():
            kept.pop(key, None)
            if value is not None:
                kept[key] = value


class RecordingCache:
    def __init__(self) -> None:
        self.deleted: list[int] = []

    async def delete(self, conv_ids: Sequence[int]) -> int:
        self.deleted += conv_ids
        return 1


class Agent:
    """A handler with everything around it; offsets count up over all its chunks."""

    def __init__(self, store: WatchedStore) -> None:
        self.kept = Kept()
        self.cache = RecordingCache()
        self.metrics = Metrics()
        self.store = store
        self.offset = 0
        self.begins = 0
        self.history_from = 0
        self.now = NOW
        self.handler = JourneysHandler(
            NAMES,
            store,
            JourneysSettings(owner=store.owner, lookback=30 * DAY),
            states=lambda: self.kept,
            cache=self.cache,
            metrics=self.metrics,
            log_place=self._log_place,
            clock=lambda: self.now,
        )
        self._read = EventReader(clicks=NAMES.clicks, conversions=NAMES.conversions, partitions=NAMES.partitions)

    async def _log_place(self, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
        topics = (NAMES.clicks, NAMES.conversions)
        return LogPlace(
            partitions=NAMES.partitions,
            topic_ids=dict.fromkeys(topics, "id"),
            committed=committed,
            begins=dict.fromkeys(topics, self.begins),
            ends=dict.fromkeys(topics, 1_000_000),
            history_from=self.history_from,
        )

    def chunk(self, *contents: Click | Conversion | bytes | None, partition: int = HOME) -> Chunk:
        """Bytes are the value of a record of clicks."""
        arrivals = []
        for content in contents:
            topic = NAMES.conversions if isinstance(content, Conversion) else NAMES.clicks
            arrivals.append(self._arrival(topic, _value_of(content), partition))
        return Chunk(partition, 1, arrivals, {NAMES.clicks: self.offset, NAMES.conversions: self.offset})

    def _arrival(self, topic: str, value: bytes | None, partition: int) -> Arrival:
        self.offset += 1
        headers = (("from", b"outside"),)
        return self._read(
            ConsumerRecord(topic, partition, self.offset - 1, NOW * 1000, 1, b"key", value, None, 0, 0, headers)
        )

    async def work(self, chunk: Chunk, *, is_repeated: bool = False) -> Stored:
        """As the barrier does it, up to the changelog."""
        stored = await self.handler.store(chunk, is_repeated=is_repeated)
        self.kept.put(chunk.partition, stored.states)
        return stored

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"touchstream_{name}", labels) or 0


def _value_of(content: Click | Conversion | bytes | None) -> bytes | None:
    if isinstance(content, Click):
        return encode_click(content)
    return encode_conversion(content) if isinstance(content, Conversion) else content


def touches(store: WatchedStore, conv_id: int) -> list[int]:
    return [touch.click_id for touch in store.facts.journeys[conv_id].touches]


def unsettled(store: WatchedStore, partition: int = HOME) -> list[str]:
    return list(store.rows[partition].unsettled_keys)
