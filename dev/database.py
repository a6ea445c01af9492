"""MariaDB from the system's packages, with a folder, socket and port of its own; never the system's instance."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.server import CannotRun, Instance

NAME = "touchstream"  # of database, user and password: this server listens on loopback alone
SOCKET_PATH_LIMIT = 100  # the system's own is 108 bytes

# Run at each start, so it must be repeatable. Tests make databases of their own under the same prefix.
INIT_SQL = f"""\
CREATE DATABASE IF NOT EXISTS {NAME} CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '{NAME}'@'127.0.0.1' IDENTIFIED BY '{NAME}';
CREATE USER IF NOT EXISTS '{NAME}'@'localhost' IDENTIFIED BY '{NAME}';
GRANT ALL ON `{NAME}%`.* TO '{NAME}'@'127.0.0.1';
GRANT ALL ON `{NAME}%`.* TO '{NAME}'@'localhost';
"""


def program(*names: str) -> str:
    for name in names:
        # Daemons lie outside the PATH of an ordinary user.
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/libexec")
        if found:
            return found
    raise CannotRun(f"{names[0]} is missing; install it with: apt-get install -y mariadb-server")


def account(data: Path) -> str:
    """As whom the server runs: root may not be the one, unless only root can reach the folder."""
    if os.geteuid() != 0:
        return ""
    is_reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in data.parents)
    return "mysql" if is_reachable else "root"


class Database:
    name = "mariadb"
    default_port = 3306
    other_ports: Sequence[str] = ()

    def prepare(self, instance: Instance, data: Path) -> Mapping[str, str]:
        program("mariadbd", "mysqld")
        user = account(data)
        files = data / "data"
        extra = {"user": user, "socket": str(data / "mariadb.sock"), "remove": ""}
        if len(extra["socket"]) > SOCKET_PATH_LIMIT:
            folder = tempfile.mkdtemp(prefix="touchstream-mariadb-")
            extra |= {"socket": f"{folder}/mariadb.sock", "remove": folder}
        data.chmod(0o755)
        (data / "init.sql").write_text(INIT_SQL, encoding="utf-8")
        (data / "tmp").mkdir(exist_ok=True)
        if user == "mysql":
            shutil.chown(data / "tmp", user)
        if not (files / "mysql").exists():
            self._install(files, user)
        for folder in filter(None, [str(data), extra["remove"]]):
            if user == "mysql":
                shutil.chown(folder, user)
        return extra

    def _install(self, files: Path, user: str) -> None:
        shutil.rmtree(files, ignore_errors=True)  # what an interrupted first start left behind
        command = [
            program("mariadb-install-db", "mysql_install_db"),
            "--no-defaults",
            f"--datadir={files}",
            f"--tmpdir={files.parent / 'tmp'}",  # a server that starts clears the folder, and another's files with it
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *([f"--user={user}"] if user else []),
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotRun(f"MariaDB could not set up {files}:\n{done.stdout}{done.stderr}")

    def command(self, instance: Instance, data: Path) -> Sequence[str]:
        user = instance.extra["user"]
        return [
            program("mariadbd", "mysqld"),
            "--no-defaults",
            *([f"--user={user}"] if user else []),
            f"--datadir={data / 'data'}",
            f"--tmpdir={data / 'tmp'}",
            f"--socket={instance.extra['socket']}",
            f"--pid-file={data / 'data' / 'mariadb.pid'}",
            f"--port={instance.ports['client']}",
            "--bind-address=127.0.0.1",
            f"--init-file={data / 'init.sql'}",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=1G",  # what is not used of it costs nothing
            "--character-set-server=utf8mb4",
            "--max-allowed-packet=64M",
            "--max-connections=300",
        ]

    def accepts(self, instance: Instance, data: Path) -> bool:
        login = [
            program("mariadb", "mysql"),
            "--no-defaults",
            "--protocol=tcp",
            "--host=127.0.0.1",
            f"--port={instance.ports['client']}",
            f"--user={NAME}",
            f"--password={NAME}",
            "--connect-timeout=2",
            "--execute=SELECT 1",
            NAME,
        ]
        return subprocess.run(login, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0

    def setting(self, instance: Instance) -> str:
        return f"TOUCHSTREAM_DATABASE_URL=mysql+asyncmy://{NAME}:{NAME}@{instance.address}/{NAME}?charset=utf8mb4"
