"""Is the broker there, with the topics that are needed? Asked before Faust starts, which would crash and not wait."""

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from stream.core.errors import StartRefused, Unavailable
from stream.engine.reaching import refusal

_ANSWER_SECONDS = 10


async def check_topics(options: Mapping[str, object], partitions: Mapping[str, int]) -> None:
    """`options` are those of any aiokafka client, `partitions` the expected counts by topic.

    Raises Unavailable where no broker answers or none takes us in, StartRefused where a topic is missing or has
    another count.
    """
    client = AIOKafkaClient(**options)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await client.bootstrap()
            await client.set_topics(list(partitions))
            found = {topic: len(client.cluster.partitions_for_topic(topic) or ()) for topic in partitions}
    except (KafkaError, TimeoutError, OSError) as error:
        refused = await refusal(options)
        why = f"{refused} (hint: {refused.hint})" if refused else f"no broker answers at {options['bootstrap_servers']}"
        raise Unavailable(why) from error
    finally:
        await client.close()
    _refuse_others(partitions, found)


def _refuse_others(expected: Mapping[str, int], found: Mapping[str, int]) -> None:
    missing: Sequence[str] = [topic for topic, count in found.items() if not count]
    if missing:
        names = ", ".join(f'"{topic}"' for topic in missing)
        raise StartRefused(f"the broker has no topic {names}", hint='run "python -m stream topics apply"')
    for topic, count in found.items():
        if count != expected[topic]:
            raise StartRefused(
                f'topic "{topic}" has {count} partitions, expected {expected[topic]}',
                hint=f"set TOUCHSTREAM_PARTITIONS={count}, or make the topics anew",
            )
