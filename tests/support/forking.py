"""Commands of ours without their imports: a process that has them forks, and the child is the command.

A test process starts hundreds of commands, and most of what each of them did was to import SQLAlchemy and aiokafka.
Arguments, environment, folder, files and exit code are those of a process of its own; only its command line, in /proc,
is that of the one that forked. Workers are not made so: they have threads, and one in a thousand ended with SIGSEGV.
"""

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stream.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
_FILES = 3
_HEAD = 8  # digits of a request's length


def run_to_end(
    module: str, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, given: bytes, timeout: float
) -> "subprocess.CompletedProcess[bytes]":
    """As `python -m MODULE ARGUMENTS`. Raises subprocess.TimeoutExpired, and the command is gone then."""
    args = [module, *arguments]
    request = json.dumps({"module": module, "arguments": arguments, "env": dict(env), "cwd": str(cwd)}).encode()
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        connection.makefile("r") as answers,
    ):
        stdin.write(given)
        stdin.seek(0)
        connection.connect(_server())
        files = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
        socket.send_fds(connection, [f"{len(request):{_HEAD}d}".encode()], files)
        connection.sendall(request)
        pid = int(answers.readline())
        is_over = False
        try:
            is_over = bool(select.select([connection], [], [], timeout)[0])
        finally:
            if not is_over:
                os.kill(pid, signal.SIGKILL)
        if not is_over:
            raise subprocess.TimeoutExpired(args, timeout)
        code = int(answers.readline())
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(args, code, stdout.read(), stderr.read())


@cache
def _server() -> str:
    """Address of this test process's own; it ends with us."""
    folder = tempfile.mkdtemp(prefix="touchstream-fork-")
    address = f"{folder}/socket"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in [name for name in env if name.startswith("TOUCHSTREAM_")]:
        del env[name]
    command = [sys.executable, "-m", "tests.support.forking", address]
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.PIPE)
    atexit.register(_end, process, folder)
    deadline = time.monotonic() + 60
    while not Path(f"{address}.ready").exists():
        assert time.monotonic() < deadline, "the process that forks does not start"
        time.sleep(0.02)
    return address


def _end(process: "subprocess.Popen[bytes]", folder: str) -> None:
    process.communicate()
    shutil.rmtree(folder, ignore_errors=True)


# The process that forks


def _serve(address: str) -> None:
    for module, _ in COMMANDS.values():
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    Path(f"{address}.ready").touch()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the tests end first
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            return  # whoever started us is gone
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _stand_beside(connection)
        connection.close()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _stand_beside(connection: socket.socket) -> None:
    """Be the parent of one command, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(connection, _HEAD, _FILES)
    request = b""
    while len(request) < int(head):
        request += connection.recv(int(head) - len(request))
    pid = os.fork()
    if pid == 0:
        connection.close()
        _be(files, **json.loads(request))
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _be(files: Sequence[int], *, module: str, arguments: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    faulthandler.enable()
    random.seed()
    for name in (module, f"{module}.__main__"):  # else runpy warns that it runs them twice
        if name != "stream":
            sys.modules.pop(name, None)
    sys.argv = [module, *arguments]
    code: Any = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - as the interpreter would
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve(sys.argv[1])
