"""How is a MySQL server reached over TLS? By the options of SQLAlchemy's URLs, its certificate always looked at.

The driver alone would take any certificate where no `ssl_ca` is given, and go on without TLS where nothing is. With a
context of ours it sends neither user nor password before the server has proven who it is.
"""

import ssl
from typing import Any

from sqlalchemy import URL

from stream.config import tls_context
from stream.core.errors import Misconfigured
from tables.sql.addresses import TLS_OPTIONS

_SWITCHES = {"true": True, "1": True, "false": False, "0": False}


def tls_arguments(address: URL) -> dict[str, ssl.SSLContext]:
    """For the driver; empty where the URL asks for no TLS. Raises Misconfigured."""
    given = {name: _only(name, address.query[name]) for name in TLS_OPTIONS if name in address.query}
    if not given:
        return {}
    if not _switch("ssl", given.get("ssl", "true")):
        raise Misconfigured("database URL has the option ssl=false", hint="leave out all options that begin with ssl")
    if "ssl_key" in given and "ssl_cert" not in given:
        raise Misconfigured("database URL has the option ssl_key without ssl_cert")
    context = tls_context(
        "ssl_ca, ssl_cert and ssl_key of the database URL",
        cafile=given.get("ssl_ca", ""),
        certfile=given.get("ssl_cert", ""),
        keyfile=given.get("ssl_key", ""),
    )
    context.check_hostname = _switch("ssl_check_hostname", given.get("ssl_check_hostname", "true"))
    return {"ssl": context}


def _only(name: str, value: Any) -> str:  # noqa: ANN401 -- a text, or several
    if not isinstance(value, str):
        raise Misconfigured(f"database URL has the option {name} twice")
    return value


def _switch(name: str, text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise Misconfigured(f"database URL has the option {name}, which is neither true nor false")
    return _SWITCHES[text.lower()]
