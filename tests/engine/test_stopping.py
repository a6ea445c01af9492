"""On a real broker: a stop that meets a rebalance."""

from pathlib import Path

from tests.engine.real import Start, committed, ends, producer, send
from tests.engine.toy import Config


async def test_a_stop_during_a_revocation_ends_in_time(config: Config, run: Start, tmp_path: Path) -> None:
    # The consumer thread died of the revocation's cancelled commit, and the process waited for it for ever.
    worker = await run(answer_seconds=2.0).open()
    async with producer(config) as client:
        await send(client, config.topics[0], ["one"] * 100)
    await worker.done(100)
    commits = len(worker.notes("committing"))
    (tmp_path / "other").mkdir()
    other = run(folder=str(tmp_path / "other"))
    await worker.until(lambda: len(worker.notes("committing")) > commits, "a revocation")
    worker.process.terminate()
    assert await worker.exit(15) == 0
    await other.open()
    assert await other.stop() == 0
    assert await committed(config) == await ends(config)
