"""How each kind of fault strikes a simulated system."""

import asyncio
import random
from collections.abc import Callable

from stream.core.errors import Unavailable
from tests.simulation.case import Fault
from tests.simulation.engines import Engine
from tests.simulation.hands import Replay, change_models, purge, rebuild
from tests.simulation.processes import Blow, Process
from tests.simulation.workers import CHANGELOG, SOURCES, Worker
from tests.simulation.world import World

_REVOKE_SECONDS = 4.0  # a worker waits for 5 s; the other steps take some of them
# Where a blow falls: any step, or the next one of these.
_PLACES = (
    "", "", "sql", "sql:pass_fence", "sql:write", "sql:commit", "sql:committed", "sql:mark_published", "log:send",
    "log:send states", "wire:sent", "log:offsets", "log:offsets committed", "wire:outputs committed",
    "log:commit of outputs", "log:recovery", "agent", "fetch", "group",
)  # fmt: skip
# Where a worker that sleeps has something in hand.
_IN_HAND = (
    "agent", "sql", "sql:take_over", "sql:take_over", "sql:pass_fence", "sql:begin", "sql:commit", "sql:committed",
    "log:send states", "log:send states", "log:send journeys", "log:offsets",
)  # fmt: skip


def strike(world: World, fault: Fault) -> None:
    """Now, or, for a blow, at some step that is to come."""
    _STRIKES[fault.kind](world, random.Random(fault.seed))


def _later(seconds: float, work: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(seconds, work)


# Blows


def _aim(
    world: World,
    chance: random.Random,
    kind: str,
    hit: Callable[[Process], float | None],
    *,
    places: tuple[str, ...] = _PLACES,
) -> None:
    if world.workers:
        process = chance.choice(world.workers).process
        process.blows.append(Blow(kind, chance.choice((1, 1, 2, 5, 20)), chance.choice(places), hit))


def _crash(world: World, chance: random.Random) -> None:
    _aim(world, chance, "crash", Process.die)


def _sleep(world: World, chance: random.Random) -> None:
    """Longer than a session: others take over, and it wakes as a zombie."""
    seconds = 11 + chance.random() * 15
    _aim(world, chance, "sleep", lambda process: _doze(process, seconds), places=_IN_HAND)


def _short_sleep(world: World, chance: random.Random) -> None:
    seconds = chance.random() * 8
    _aim(world, chance, "short sleep", lambda process: _doze(process, seconds))


def _doze(process: Process, seconds: float) -> None:
    process.sleep()
    _later(seconds, process.wake)


def _zombie(world: World, chance: random.Random) -> None:
    """It falls asleep between the proof of its membership and the fence, with records in hand."""
    place = "sql:pass_fence of hours" if chance.random() < 0.2 else "sql:pass_fence of journeys"
    if world.shape.is_sql:
        place = place.replace("pass_fence", "begin")
    _fall_asleep(world, chance, "zombie", place, seconds=11 + chance.random() * 8)


def _late_state(world: World, chance: random.Random) -> None:
    """What it remembers is written after a new owner has begun, and then read by whoever comes next."""
    _fall_asleep(world, chance, "late state", "log:send states", seconds=16 + chance.random() * 8)


def _fall_asleep(world: World, chance: random.Random, kind: str, place: str, *, seconds: float) -> None:
    """For longer than a session, while others are there; soon after it wakes the partitions change hands again."""
    _be_several(world)
    if not world.workers:
        return
    busy = [each for each in world.workers if _engine_of(each, place).member.assigned]  # who has none does no harm
    worker = chance.choice(busy or world.workers)
    engine = _engine_of(worker, place)

    def doze(process: Process) -> None:
        _doze(process, seconds)
        _later(seconds + chance.random() * 3, lambda: _rebalance(world, chance))

    worker.process.blows.append(Blow(kind, chance.choice((1, 1, 2)), place, doze, lambda: engine.has_records_in_hand))


def _contention(world: World, _chance: random.Random) -> None:
    """The next payments take long to store, so that two chunks with the same ones come to wait for each other."""
    for worker in world.workers:
        for number in range(1, 7):
            worker.process.blows.append(Blow("contention", number, "sql:write_log of", lambda _process: 0.1))


def _engine_of(worker: Worker, place: str) -> Engine:
    return worker.hours if "hours" in place else worker.journeys


def _be_several(world: World) -> None:
    world.wanted_workers = max(2, world.wanted_workers)
    while len(world.workers) < world.wanted_workers and not world.is_closed:
        world.start_worker()


def _stop(world: World, chance: random.Random) -> None:
    """SIGTERM: what is in flight ends, and the process with it."""
    if not world.workers:
        return
    worker = chance.choice(world.workers)
    world.struck["stop"] += 1

    async def stop() -> None:
        await worker.stop()
        worker.process.die()

    worker.process.spawn(stop())


def _reply_lost(world: World, chance: random.Random) -> None:
    _aim(world, chance, "reply lost", _no_answer, places=("sql:committed",))


def _conflict(world: World, chance: random.Random) -> None:
    _aim(world, chance, "conflict", _no_answer, places=("sql",))


def _no_answer(process: Process) -> None:
    raise Unavailable("no answer of the database, says the simulation")


def _answer_lost(world: World, chance: random.Random) -> None:
    if world.workers:
        chance.choice(world.workers).producer.loses_answers += 1
        world.struck["answer lost"] += 1


def _state_lost(world: World, chance: random.Random) -> None:
    def lose(process: Process) -> None:
        for worker in world.workers:
            if worker.process is process:
                worker.state_table.kept.drop_values()

    _aim(world, chance, "state lost", lose)


def _stuck(world: World, chance: random.Random) -> None:
    """One answer takes long; at times longer than a rebalance waits for it."""
    seconds, is_rebalanced = 2 + chance.random() * 10, chance.random() < 0.7

    def hold(process: Process) -> float:
        if seconds > _REVOKE_SECONDS:
            world.sleepers.add(process.name)  # it may take a partition that is another's by now
        if is_rebalanced:
            _rebalance(world, chance)
        return seconds

    _aim(world, chance, "stuck", hold, places=_IN_HAND)


# Weather


def _database_away(world: World, chance: random.Random) -> None:
    world.struck["database away"] += 1
    world.step.database_away_until = _now() + chance.random() * 12


def _broker_away(world: World, chance: random.Random) -> None:
    world.struck["broker away"] += 1
    world.step.broker_away_until = _now() + chance.random() * 8


def _database_slow(world: World, chance: random.Random) -> None:
    world.struck["database slow"] += 1
    world.step.slowness = 0.2
    _later(chance.random() * 5, world.heal_slowness)


def _cache_away(world: World, chance: random.Random) -> None:
    world.struck["cache away"] += 1
    cache = world.system.cache
    cache.is_away = True

    def come_back() -> None:
        cache.is_away = False

    _later(chance.random() * 5, come_back)


def _rebalance(world: World, chance: random.Random) -> None:
    world.struck["rebalance"] += 1
    chance.choice(sorted(world.system.broker.groups.items()))[1].begin_rebalance(_now())


def _compaction(world: World, chance: random.Random) -> None:
    """Tombstones stay for a while: a reader that was away for less misses none."""
    before_ms = world.system.broker.now_ms() - 60_000
    for partition in world.system.broker.topics[CHANGELOG]:
        world.struck["compaction"] += bool(partition.compact(before_ms))


def _markers(world: World, chance: random.Random) -> None:
    world.struck["markers"] += 1
    for topic in SOURCES:
        for partition in world.system.broker.topics[topic]:
            if chance.random() < 0.5:
                partition.skip()


def _now() -> float:
    return asyncio.get_running_loop().time()


# Other hands


def _replay(world: World, chance: random.Random) -> Replay:
    world.struck["replay"] += 1
    replay = Replay(world.system, chance, is_whole=chance.random() < 0.5)
    world.start_hand("replay", replay.run)
    return replay


def _killed_replay(world: World, chance: random.Random) -> None:
    """Somebody gives the same command again."""
    replay = Replay(world.system, chance, is_whole=chance.random() < 0.5)
    process = world.start_hand("replay", replay.run)
    process.blows.append(Blow("killed replay", chance.randint(1, 40), "", Process.die))

    def again() -> None:
        if not world.is_closed:
            world.start_hand("replay", replay.run)

    process.on_death.append(again)


def _rebuild(world: World, chance: random.Random) -> None:
    world.struck["rebuild"] += 1
    world.start_hand("rebuild", lambda process: rebuild(world.system, process))


def _killed_rebuild(world: World, chance: random.Random) -> None:
    process = world.start_hand("rebuild", lambda process: rebuild(world.system, process))
    process.blows.append(Blow("killed rebuild", chance.randint(1, 40), "", Process.die))


def _models(world: World, chance: random.Random) -> None:
    world.struck["models"] += 1
    world.start_hand("models", lambda process: change_models(world.system, process, chance))


def _settings(world: World, chance: random.Random) -> None:
    world.struck["settings"] += 1
    evict = world.system.cache.delete
    world.start_hand("settings", lambda process: world.storage.switch(process, chance, evict))


def _purge(world: World, chance: random.Random) -> None:
    world.struck["purge"] += 1
    world.is_purged = True
    world.start_hand("purge", lambda process: purge(world.system, process, chance))


def _another_worker(world: World, chance: random.Random) -> None:
    world.struck["another worker"] += 1
    world.wanted_workers = chance.choice((1, 2, 3))
    if len(world.workers) < world.wanted_workers:
        world.start_worker()
    elif len(world.workers) > world.wanted_workers:
        _stop(world, chance)


def _reader(world: World, chance: random.Random) -> None:
    """Fills the cache with what it sees in SQL."""
    world.struck["reader"] += 1
    for each in world.storage.journeys():
        if chance.random() < 0.5:
            world.system.cache.entries[each.conv_id] = each.touches


def _restore(world: World, chance: random.Random) -> None:
    """A copy is taken now, and put back later, with all workers down."""
    kept = world.storage.back_up()
    _later(chance.random() * 12, lambda: _put_back(world, chance, kept))


def _put_back(world: World, chance: random.Random, kept: object) -> None:
    if world.step.is_over or world.is_settling:
        return
    world.struck["restore"] += 1
    world.is_restored = world.is_closed = True
    world.kill_all()
    world.kill_hands()
    world.storage.restore(kept)
    world.audit.forget_unsent()

    def reopen() -> None:
        world.is_closed = False
        evict = world.system.cache.delete
        world.start_hand("models", lambda process: world.storage.resume_changes(process, evict))

    _later(chance.random() * 15, reopen)


_STRIKES: dict[str, Callable[[World, random.Random], object]] = {
    "crash": _crash,
    "sleep": _sleep,
    "short sleep": _short_sleep,
    "zombie": _zombie,
    "contention": _contention,
    "late state": _late_state,
    "stop": _stop,
    "reply lost": _reply_lost,
    "conflict": _conflict,
    "answer lost": _answer_lost,
    "state lost": _state_lost,
    "stuck": _stuck,
    "database away": _database_away,
    "broker away": _broker_away,
    "database slow": _database_slow,
    "cache away": _cache_away,
    "rebalance": _rebalance,
    "compaction": _compaction,
    "markers": _markers,
    "replay": _replay,
    "killed replay": _killed_replay,
    "rebuild": _rebuild,
    "killed rebuild": _killed_rebuild,
    "models": _models,
    "settings": _settings,
    "another worker": _another_worker,
    "reader": _reader,
    "restore": _restore,
    "purge": _purge,
}
