"""Which topics has this installation, by the names and counts that its settings give them? No broker is asked."""

from collections.abc import Mapping, Sequence

from stream.agents.outputs import TopicNames
from stream.config import Settings
from stream.topics import CLICKS, CONVERSIONS, JOURNEYS, PlannedTopic, plan_topics, read_topics


def planned_topics(settings: Settings) -> Sequence[PlannedTopic]:
    return plan_topics(
        read_topics(),
        prefix=settings.topic_prefix,
        app_id=settings.app_id,
        partitions=settings.partitions,
        lookback_days=settings.lookback_days,
    )


def planned_counts(settings: Settings) -> Mapping[str, int]:
    """Partitions of every topic, by its name."""
    return {topic.name: topic.partitions for topic in planned_topics(settings)}


def topic_names(settings: Settings) -> TopicNames:
    counts = planned_counts(settings)
    clicks, conversions, journeys = (settings.topic_prefix + name for name in (CLICKS, CONVERSIONS, JOURNEYS))
    return TopicNames(clicks, conversions, journeys, counts[clicks], counts[journeys])
