"""What the tests of `replay` share."""

from collections.abc import Mapping

from tests.faults.installation import Installation
from tests.support.processes import cli
from tests.support.traffic import DAY


def refused(*options: str, env: Mapping[str, str], code: int) -> str:
    done = cli("replay", *options, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def lately(installation: Installation) -> tuple[str, ...]:
    return "--start", str(installation.now - 2 * DAY), "--end", str(installation.now)


def partition_of_clicks(installation: Installation) -> int:
    return next(partition for (topic, partition), end in installation.ends().items() if topic == "clicks" and end)
