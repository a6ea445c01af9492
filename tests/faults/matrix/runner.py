"""One fault from its servers to its result."""

import random
import shutil
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.installation import Installation
from tests.faults.matrix.audit import MODELS, Tally, audit
from tests.faults.matrix.contract import Fault, MissedIt, Run
from tests.faults.matrix.results import RESULTS, Result, digest_of_code
from tests.faults.matrix.servers import Servers, Shared, new_database
from tests.support.hour_rows import store_models
from tests.support.processes import succeed
from tests.support.traffic import Rates, traffic

# Much of what makes a chunk change more than its own rows.
RATES = Rates(conversions=0.3, late=0.3, revised_clicks=0.25, other_campaign=0.25, revised_conversions=0.2, broken=0.01)
SETTINGS = {"chunk_records": 50, "fire_interval_seconds": 0.5}


def run_fault(fault: Fault, shared: Shared, *, folder: Path = RESULTS) -> Result:
    """Never raises for what the fault did: that is in the result."""
    began = time.monotonic()
    code = digest_of_code()  # as it was when the fault began
    own = folder / fault.name
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    runs: list[Run] = []
    tally, problem = Tally(), ""
    try:
        with fault.servers(shared) as servers, _database(fault, servers, own) as database_url:
            settings: dict[str, Any] = {**SETTINGS, "memcached": servers.memcached}
            installation = Installation(servers.kafka, database_url, own, partitions=fault.partitions, **settings)
            _send_through_proxies(installation, servers)
            runs.append(Run(fault, servers, installation, own))
            tally = _run(runs[0])
    except Exception:  # noqa: BLE001 - every end of a fault is a result
        problem = _problem(runs, traceback.format_exc())
    problem = problem or "\n".join(tally.differences)
    return _result(fault, runs, tally, problem=problem, code=code, seconds=time.monotonic() - began)


def _database(fault: Fault, servers: Servers, own: Path) -> AbstractContextManager[str]:
    if fault.database == "sqlite":
        return nullcontext(f"sqlite+aiosqlite:///{own / 'touchstream.db'}")
    return new_database(servers.mariadb)


def _send_through_proxies(installation: Installation, servers: Servers) -> None:
    """Commands and workers alone: what is sent and compared goes by the straight way."""
    if (proxy := servers.extras.get("kafka")) is not None:
        installation.env["TOUCHSTREAM_KAFKA"] = f"127.0.0.1:{proxy.port}"
    if (proxy := servers.extras.get("mariadb")) is not None:
        url = installation.env["TOUCHSTREAM_DATABASE_URL"]
        installation.env["TOUCHSTREAM_DATABASE_URL"] = url.replace(f":{proxy.target}/", f":{proxy.port}/")


def _run(run: Run) -> Tally:
    fault, installation = run.fault, run.installation
    try:
        installation.prepare()
        store_models(installation.database_url, MODELS)
        run.watch.start()
        run.workforce.hire(fault.workers)
        run.workforce.wait_ready()
        # Seeded by the name: the same records each time, at whatever moment the fault strikes them.
        run.flow.start(
            traffic(random.Random(fault.name).randrange(2**32), fault.events, now=installation.now, rates=RATES)
        )
        fault.strike(run)
        if not run.blows:
            raise MissedIt("it never struck")
        return _settled(run)
    finally:
        run.flow.stop()
        run.watch.stop()
        run.workforce.close()
        _remove(installation)


def _settled(run: Run) -> Tally:
    """All that is left to do is done by the workers alone; then the rows are compared, and they end as they should."""
    run.flow.wait_sent()
    succeed(
        "status", "--wait-drained", str(run.fault.drain_seconds), env=run.installation.env,
        timeout=run.fault.drain_seconds + 60,
    )  # fmt: skip
    if run.fault.has_clean_end:
        run.workforce.wait_ready()  # one that was started again a moment ago knows no SIGTERM yet
    codes = run.workforce.dismiss_all()
    if run.fault.has_clean_end:
        assert set(codes) <= {0}, f"workers exited with {codes} at the end"
    tally = audit(run.installation, by_version=not run.fault.forgets_versions)
    if tally.repeated_letters:
        run.note(f"{tally.repeated_letters} dead letters stand there once more, as they may")
    return tally


def _remove(installation: Installation) -> None:
    try:
        installation.remove()
    except Exception as error:  # noqa: BLE001 - the broker may be gone; its folder goes with it
        print(f"  topics stay behind: {error!r:.100}", flush=True)  # noqa: T201


def _problem(runs: list[Run], trace: str) -> str:
    last = trace.strip().splitlines()[-1]
    return "\n".join([last, trace, runs[0].workforce.log_tail() if runs else ""])


def _result(fault: Fault, runs: list[Run], tally: Tally, *, problem: str, code: str, seconds: float) -> Result:
    run = runs[0] if runs else None
    return Result(
        name=fault.name,
        struck=len(run.blows) if run else 0,
        shares=tuple(round(blow.share, 3) for blow in run.blows) if run else (),
        records=run.watch.samples[-1].end if run and run.watch.samples else 0,
        expected=tally.expected,
        found=tally.found,
        lost=tally.lost,
        doubled=tally.doubled,
        wrong=tally.wrong,
        recovery=_recovery(run) if run else None,
        longest_lag=round(run.watch.longest_lag(), 1) if run else 0.0,
        seconds=round(seconds, 1),
        on=datetime.now(UTC).date().isoformat(),
        code=code,
        notes=tuple(run.notes) if run else (),
        problem=problem,
    )


def _recovery(run: Run) -> float | None:
    """The longest of all strokes that had time to heal; of a burst, that is its last one."""
    found: list[float] = []
    for number, blow in enumerate(run.blows):
        healed = blow.healed or blow.at
        seconds = run.watch.seconds_to_catch_up(healed)
        if seconds is None:
            return None
        is_last = number + 1 == len(run.blows)
        if is_last or healed + seconds <= run.blows[number + 1].at:
            found.append(seconds)
    return round(max(found), 1) if found else None
