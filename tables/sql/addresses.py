"""Which database does a URL mean? Read once, checked, and given to SQLAlchemy in one form."""

from pathlib import Path
from urllib.parse import parse_qsl

from sqlalchemy import URL, exc, make_url

from stream.core.errors import Misconfigured

MYSQL = "mysql"
SQLITE = "sqlite"

_HINT = "use mysql+asyncmy://USER:PASSWORD@HOST:PORT/DATABASE or sqlite+aiosqlite:///PATH"
TLS_OPTIONS = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname")
_OPTIONS = ("charset", "unix_socket", *TLS_OPTIONS)
_DRIVERS = {"mysql": "mysql+asyncmy", "mariadb": "mysql+asyncmy", "sqlite": "sqlite+aiosqlite"}


def address_of(url: str) -> URL:
    """Raises Misconfigured; the message never holds the password. Makes the folder of an SQLite file."""
    try:
        address = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        raise Misconfigured("TOUCHSTREAM_DATABASE_URL is not a database URL", hint=_HINT) from error
    driver = _DRIVERS.get(address.get_backend_name())
    if driver is None or address.drivername not in {driver, address.get_backend_name(), "mariadb+asyncmy"}:
        shown = address.render_as_string(hide_password=True)
        raise Misconfigured(f'database URL "{shown}" names a database or driver that is not supported', hint=_HINT)
    address = address.set(drivername=driver)
    if driver.startswith(MYSQL):
        # SQLAlchemy leaves such options out: TLS would be gone with the variable that should have named its file.
        options = url.rpartition("@")[2].partition("?")[2]
        if options and not all(value for _, value in parse_qsl(options, keep_blank_values=True)):
            raise Misconfigured("database URL has an option without a value", hint=_HINT)
        return _mysql_address(address)
    return _sqlite_address(address)


def _mysql_address(address: URL) -> URL:
    if not address.database:
        raise Misconfigured("database URL names no database", hint=_HINT)
    if not address.query.keys() <= set(_OPTIONS):
        # Others would change how the driver logs in, reads, or sends files of ours.
        raise Misconfigured("database URL has an unknown option", hint="options are " + ", ".join(_OPTIONS))
    return address.update_query_dict({"charset": "utf8mb4"})


def _sqlite_address(address: URL) -> URL:
    if not address.database or address.database == ":memory:" or address.database.startswith("file:"):
        raise Misconfigured("SQLite needs the path of a file: memory outlives no process", hint=_HINT)
    try:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f'folder of the database "{address.database}" cannot be made: {error}') from error
    return address
