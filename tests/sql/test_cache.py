"""Deletions in a real memcached."""

import asyncio
import hashlib
import signal

import aiomcache
import pytest

from tables.cache import LIMIT_S, JourneyCache, journey_keys
from tests.support.servers import RunningServer

SITE = "a" * 40


def host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_the_keys_are_the_documented_one_and_one_for_each_site() -> None:
    assert journey_keys(5, ["", SITE]) == [
        b"attribution_journey_5",
        hashlib.md5(b"attribution_journey_5_").hexdigest().encode(),
        hashlib.md5(b"attribution_journey_5_" + SITE.encode()).hexdigest().encode(),
    ]


async def test_all_forms_of_a_key_are_deleted_and_nothing_else(memcached: str) -> None:
    client = aiomcache.Client(*host_port(memcached))
    command_line = hashlib.new("ripemd160", b"").hexdigest()
    gone = [key for conv_id in (1, 2) for key in journey_keys(conv_id, ["", SITE, command_line])]
    kept = [*journey_keys(3, ["", SITE]), *journey_keys(1, ["b" * 40])[1:]]
    for key in gone + kept:
        await client.set(key, b"x")
    cache = JourneyCache(*host_port(memcached), [SITE])
    assert await cache.delete([1, 2]) == 0
    assert [await client.get(key) for key in gone] == [None] * len(gone)
    assert [await client.get(key) for key in kept] == [b"x"] * len(kept)
    await cache.close()
    await client.close()


async def test_a_whole_chunk_is_deleted_in_time(memcached: str) -> None:
    cache = JourneyCache(*host_port(memcached), [SITE])
    for _ in range(3):
        assert await cache.delete(range(1, 1001)) == 0
    await cache.close()


async def test_chunks_of_many_partitions_delete_at_once(memcached: str) -> None:
    cache = JourneyCache(*host_port(memcached))
    assert await asyncio.gather(*(cache.delete([number, number + 1]) for number in range(8))) == [0] * 8
    await cache.close()


async def test_without_a_cache_nothing_is_done() -> None:
    cache = JourneyCache("", 0)
    assert await cache.delete([1]) == 0
    await cache.close()


async def test_a_cache_that_is_away_counts_every_conversion() -> None:
    cache = JourneyCache("127.0.0.1", 1)
    assert await cache.delete([1, 2, 3]) == 3
    await cache.close()


async def test_a_cache_that_hangs_costs_the_limit_and_no_more(own_memcached: RunningServer) -> None:
    cache = JourneyCache(*host_port(own_memcached.address))
    assert await cache.delete([1]) == 0
    own_memcached.signal(signal.SIGSTOP)
    try:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await cache.delete([1, 2]) == 2
        assert loop.time() - began < 3 * LIMIT_S
    finally:
        own_memcached.signal(signal.SIGCONT)
    # Late answers to the first requests must not be taken for answers to these.
    assert await cache.delete([1, 2, 3]) == 0
    await cache.close()


async def test_a_cache_that_restarts_is_found_again(own_memcached: RunningServer) -> None:
    cache = JourneyCache(*host_port(own_memcached.address))
    assert await cache.delete([1]) == 0
    own_memcached.stop()
    assert await cache.delete([1]) == 1
    own_memcached.start()
    assert await cache.delete([1]) == 0
    await cache.close()


@pytest.mark.parametrize("conv_ids", [[], range(0)])
async def test_no_conversions_open_no_connection(conv_ids: list[int]) -> None:
    assert await JourneyCache("127.0.0.1", 1).delete(conv_ids) == 0
