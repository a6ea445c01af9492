"""memcached from the system's packages."""

import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.server import CannotRun, Instance


class Cache:
    name = "memcached"
    default_port = 11211
    other_ports = ()

    def prepare(self, instance: Instance, data: Path) -> Mapping[str, str]:
        if shutil.which("memcached") is None:
            raise CannotRun("memcached is missing; install it with: apt-get install -y memcached")
        return {}

    def command(self, instance: Instance, data: Path) -> Sequence[str]:
        account = ["-u", "nobody"] if os.geteuid() == 0 else []
        return ["memcached", "-l", "127.0.0.1", "-p", str(instance.ports["client"]), "-U", "0", "-m", "64", *account]

    def accepts(self, instance: Instance, data: Path) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", instance.ports["client"]), timeout=2) as connection:
                connection.sendall(b"version\r\n")
                return connection.recv(64).startswith(b"VERSION")
        except OSError:
            return False

    def setting(self, instance: Instance) -> str:
        return f"TOUCHSTREAM_MEMCACHED={instance.address}"
