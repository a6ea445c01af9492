"""A command that takes long, seen at work at each stroke: it alone comes to the database by a slow way."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.faults.matrix.contract import MissedIt, Run
from tests.faults.matrix.proxy import Proxy, proxied
from tests.faults.matrix.servers import Provide, Servers, Shared, own
from tests.support.processes import PRODUCT, wait_for

COMMANDS = "commands"  # among a run's extras: the way by which commands alone come to the database
DELAY_SECONDS = 0.1  # of each answer
STEPS = 3  # transactions that it has committed since the stroke before
LIMIT_SECONDS = 300
RUNS = 200  # of a command that ends because of what struck; each but the first is refused at once, or goes on


def with_slow_commands(provide: Provide) -> Provide:
    """The same servers, and the way for commands."""

    @contextmanager
    def slow(shared: Shared) -> Iterator[Servers]:
        with provide(shared) as servers, proxied(urlsplit(servers.mariadb).port or 0) as proxy:
            servers.extras[COMMANDS] = proxy
            yield servers

    return slow


def own_with_slow_commands(*broken: str) -> Provide:
    return with_slow_commands(own(*broken))


class LongCommand:
    """One command, and its repetitions, from its start to its good end."""

    def __init__(self, run: Run, *arguments: str, module: str = PRODUCT, forgiven: tuple[str, ...] = ()) -> None:
        self.name = arguments[0]
        self.killed = self.ended = 0  # by ourselves; by what struck, exit 1
        self._run = run
        self._arguments = ("-m", module, *arguments)
        self._forgiven = forgiven  # words with which it may end because of what struck
        self._log = run.folder / f"{self.name}.log"
        self._seen = 0
        proxy = run.servers.extras[COMMANDS]
        assert isinstance(proxy, Proxy)
        self._proxy = proxy
        straight = urlsplit(run.installation.database_url).port
        way = run.installation.database_url.replace(f":{straight}/", f":{proxy.port}/")
        self._environment = {**run.installation.env, "TOUCHSTREAM_DATABASE_URL": way}
        proxy.answer_delay = DELAY_SECONDS
        self._process = self._start()

    def strike(self, blow: Callable[[], object]) -> None:
        """Once the command and the workers have both gone on since the last one. Fails if the command was over."""
        share = self._run.progress()
        what = f"{STEPS} transactions of {self.name}"
        wait_for(lambda: self._is_over() or self._has_gone_on(), what, seconds=90)
        while self._is_over():
            self._go_on()
            wait_for(lambda: self._is_over() or self._has_gone_on(), what, seconds=90)
        self._run.wait_progress(min(share + 0.005, 0.79))
        self._check_alive()
        self._run.struck()
        self._seen = self._proxy.commits
        blow()
        if self.killed == 0:
            self._go_on()

    def kill(self) -> None:
        self.killed += 1
        self._process.kill()
        self._process.wait(10)

    def finish(self) -> None:
        """As fast as it can, and again as often as it ended for a reason that is forgiven; its last exit code is 0."""
        self._proxy.answer_delay = 0.0
        for _ in range(RUNS):
            code = self._process.wait(LIMIT_SECONDS)
            if code == 0:
                self._say()
                return
            said = self._said()
            if code > 0:  # not by our own signal
                assert any(words in said for words in self._forgiven), f"{self.name} exited {code}: {said[-500:]}"
                self.ended += 1
            self._process = self._start()
        raise AssertionError(f"{self.name} never came to its end: {self._said()[-500:]}")

    def _say(self) -> None:
        killed = f", killed itself {self.killed}x and run again" if self.killed else ""
        again = f", run again {self.ended}x behind what it named" if self.ended else ""
        self._run.note(f"The {self.name} was at work at each stroke{killed}{again}, and ended with exit code 0")

    def _has_gone_on(self) -> bool:
        return self._proxy.commits >= self._seen + STEPS

    def _is_over(self) -> bool:
        return self._process.poll() is not None

    def _check_alive(self) -> None:
        if self._is_over():
            code = self._process.returncode
            raise MissedIt(f"the {self.name} was over, exit code {code}: {self._said()[-300:]}")

    def _go_on(self) -> None:
        """What struck may have ended it with a word that is forgiven: then the same command goes on."""
        if self._is_over() and self._process.returncode == 1 and any(words in self._said() for words in self._forgiven):
            self.ended += 1
            self._process = self._start()
        self._check_alive()

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[self._began :]

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            self._began = log.tell()
            return subprocess.Popen(
                [sys.executable, *self._arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
