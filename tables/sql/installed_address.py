"""Which installation does `import --from` name? Its address is shown and stored; user and password never are."""

from typing import NamedTuple

from sqlalchemy import URL, exc, make_url

from stream.core.errors import Misconfigured
from tables.sql.addresses import MYSQL, address_of

_HINT = (
    "use mysql://USER:PASSWORD@HOST:PORT/DATABASE; write @ : / % in user or password as %40 %3A %2F %25"
    " (a driver, as in mysql+asyncmy, may be left out)"
)
_DEFAULT_PORT = 3306


class SourceAddress(NamedTuple):
    """`name` is host:port/database."""

    name: str
    account: str  # the user's name
    url: URL

    def is_the_database_of(self, database_url: str) -> bool:
        """As far as the two addresses tell."""
        ours = address_of(database_url)
        return ours.get_backend_name() == MYSQL and _name(ours) == self.name


def source_address(text: str) -> SourceAddress:
    """Raises Misconfigured; no message holds any part of the text but the name of a driver."""
    try:
        address = make_url(text)
        kind = address.get_backend_name()
    except (exc.ArgumentError, ValueError) as error:
        raise Misconfigured("--from is not the URL of a database", hint=_HINT) from error
    if kind not in {"mysql", "mariadb"} or address.drivername not in {kind, f"{kind}+asyncmy"}:
        raise Misconfigured("--from is not the URL of a MySQL or MariaDB database", hint=_HINT)
    if not address.database or not (address.host or "unix_socket" in address.query):
        raise Misconfigured("--from names no database, or no host", hint=_HINT)
    return SourceAddress(_name(address), address.username or "the user", address_of(text))


def _name(address: URL) -> str:
    host = address.host or f"socket {address.query.get('unix_socket')}"
    return f"{host}:{address.port or _DEFAULT_PORT}/{address.database}"
