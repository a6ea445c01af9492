"""What went wrong in the database, in the words of `stream.core.errors`: wait, retry, halve the chunk, or stop."""

import sqlite3
import ssl
from types import TracebackType

from asyncmy.errors import Error as MysqlError
from sqlalchemy import exc

from stream.core.errors import Misconfigured, RefusedByDatabase, StartRefused, StreamError, Unavailable


class TransactionConflict(Unavailable):
    """Another transaction was in the way. The whole transaction may be tried again at once."""


class DuplicateKey(TransactionConflict):
    """A row with this key is there already: whoever did not expect that reads again and decides again."""


_CONFLICTS = frozenset({1020, 1205, 1213, 3101, 3572})
_DUPLICATES = frozenset({1062, 1586})
# Network, restarts, fail-over to a read-only replica, full disks and exhausted limits: time or a person mends them.
_AWAY = frozenset(
    {1021, 1030, 1037, 1038, 1040, 1041, 1053, 1077, 1078, 1079, 1080, 1105, 1114, 1129, 1135, 1152, 1158, 1159, 1160}
    | {1161, 1180, 1184, 1203, 1206, 1226, 1290, 1317, 1637, 1792, 1836, 1927, 1969, 3024, 3032, 3168, 4031}
)
_CLIENT_CODES = range(2000, 3000)  # the client's own, all of them about the connection
_REFUSED = frozenset(
    {1048, 1118, 1153, 1264, 1265, 1292, 1300, 1301, 1366, 1367, 1406, 1411, 1416, 1690, 3140, 3819, 3854, 4025}
)
_WRONG_ACCOUNT = frozenset({1044, 1045, 1049, 1142, 1143, 1227, 1251, 1698})
# 1176: a key. 1364: somebody added a column that we do not know and that has no default. No event is to blame.
_NO_SUCH_THING = frozenset({1051, 1054, 1146, 1176, 1364})

_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_SQLITE_REFUSED = frozenset({sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
_SQLITE_DUPLICATES = frozenset(
    {sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_ROWID}
)

_ACCOUNT_HINT = "check TOUCHSTREAM_DATABASE_URL; an account that must use TLS needs ssl_ca=FILE or ssl=true in it"
UPGRADE_HINT = 'run "python -m stream db upgrade"'


def translated(error: BaseException) -> StreamError | None:
    """None for what is not understood: let it stop the process."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, StreamError):
        return error
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error)
    if isinstance(error, MysqlError):
        return _of_mysql(error)
    if isinstance(error, exc.TimeoutError | OSError | EOFError):
        return Unavailable(f"database did not answer: {error}")
    if isinstance(error, OverflowError | UnicodeError):
        return RefusedByDatabase(f"value does not fit the database: {error}")
    return None


class _Translating:
    """`with TRANSLATING:` around calls of a driver. What is not understood passes as it is."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None and (known := translated(error)) is not None and known is not error:
            raise known from error


TRANSLATING = _Translating()


def _of_tls(error: BaseException) -> StreamError | None:
    """Of a server that is not whom the settings mean, which no waiting mends; the driver wraps what OpenSSL says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Misconfigured(
                f"the certificate of the database is not trusted: {cause.verify_message}",
                hint="ssl_ca in its URL names the authorities to trust; the certificate must have the URL's host",
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _of_mysql(error: MysqlError) -> StreamError | None:
    if (untrusted := _of_tls(error)) is not None:
        return untrusted
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = f"database: {error}"
    kinds: tuple[tuple[bool, StreamError], ...] = (
        (code in _DUPLICATES, DuplicateKey(text)),
        (code in _CONFLICTS, TransactionConflict(text)),
        # Without a code: the driver found the connection closed or its packets out of order.
        (code in _AWAY or code in _CLIENT_CODES or code == 0, Unavailable(text)),
        (code in _REFUSED, RefusedByDatabase(text)),
        (code in _WRONG_ACCOUNT, Misconfigured(text, hint=_ACCOUNT_HINT)),
        (code in _NO_SUCH_THING, StartRefused(text, hint=UPGRADE_HINT)),
    )
    return next((kind for applies, kind in kinds if applies), None)


def _of_sqlite(error: sqlite3.Error) -> StreamError | None:
    extended: int = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    text = f"database: {error}"
    kinds: tuple[tuple[bool, StreamError], ...] = (
        (extended in _SQLITE_DUPLICATES, DuplicateKey(text)),
        (extended == sqlite3.SQLITE_BUSY_SNAPSHOT, TransactionConflict(text)),
        (code in _SQLITE_AWAY, Unavailable(text)),
        (code in _SQLITE_REFUSED or isinstance(error, sqlite3.DataError), RefusedByDatabase(text)),
        (code == sqlite3.SQLITE_NOTADB, Misconfigured(text, hint="check TOUCHSTREAM_DATABASE_URL")),
        (code == sqlite3.SQLITE_ERROR and "no such" in str(error), StartRefused(text, hint=UPGRADE_HINT)),
    )
    return next((kind for applies, kind in kinds if applies), None)
