"""The workers of a run and who starts them again: what systemd or Kubernetes does in life."""

import time
from threading import Event, RLock, Thread

from tests.faults.installation import Installation
from tests.support.processes import Worker, wait_for

LOOK_SECONDS = 0.1
RESTART_SECONDS = 0.5  # between an exit and the next start


class Workforce:
    """Keeps as many workers running as were asked for; one that exits is started again, with its log going on."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._lock = RLock()
        self._is_over = Event()
        self._thread = Thread(target=self._supervise, daemon=True)
        self._all: list[Worker] = []
        self.workers: list[Worker] = []  # those that shall run, oldest first
        self.exits: list[int] = []  # of workers that nobody had told to stop
        self.environment: dict[str, str] = {}  # beside the installation's, for workers that are hired from now on

    def hire(self, count: int = 1) -> None:
        """Start so many more; returns at once."""
        with self._lock:
            for _ in range(count):
                worker = self._installation.worker(name=f"worker-{len(self._all)}")
                worker.env |= self.environment
                self._all.append(worker)
                self.workers.append(worker.start())
            if not self._thread.is_alive() and not self._is_over.is_set():
                self._thread.start()

    def dismiss(self, worker: Worker | None = None, *, seconds: float = 40) -> int:
        """SIGTERM to one, the oldest if none is named, that is not started again; its exit code."""
        with self._lock:
            worker = worker or self.workers[0]
            self.workers.remove(worker)
        return worker.stop(seconds=seconds) if worker.is_running() else worker.process.returncode

    def dismiss_all(self) -> list[int]:
        """All are told before any is waited for."""
        with self._lock:
            leaving, self.workers = self.workers, []
        for worker in leaving:
            if worker.is_running():
                worker.process.terminate()
        return [worker.wait_exit(seconds=60) for worker in leaving]

    def wait_ready(self, *, seconds: float = 120) -> None:
        """One that ends meanwhile is started again."""
        for worker in list(self.workers):
            wait_for(
                lambda each=worker: each.is_running() and each.health("/readyz")[0] == 200,  # type: ignore[misc]
                f"/readyz, see {worker.log}",
                seconds=seconds,
            )

    def log_text(self) -> str:
        return "".join(worker.log_text() for worker in self._all)

    def log_tail(self) -> str:
        return "\n".join(f"--- {worker.log}\n{worker.log_tail(15)}" for worker in self._all[-4:])

    def close(self) -> None:
        """Whatever happened: nobody is left."""
        self._is_over.set()
        with self._lock:
            self.workers = []
            for worker in self._all:
                worker.kill()

    def _supervise(self) -> None:
        ended_at: dict[Worker, float] = {}
        while not self._is_over.wait(LOOK_SECONDS):
            with self._lock:
                for worker in self.workers:
                    if worker.is_running():
                        continue
                    if worker not in ended_at:
                        ended_at[worker] = time.monotonic()
                        self.exits.append(worker.process.returncode)
                    elif time.monotonic() - ended_at[worker] >= RESTART_SECONDS:
                        del ended_at[worker]
                        worker.start()
