"""Why does no broker take us in? aiokafka logs the reason and raises another error; so it is asked for once more."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from stream.core.errors import Misconfigured

_ANSWER_SECONDS = 5
_REFUSALS = (SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError)
_HANGING_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # what a broker that dies does as well

_OF_TRUST = "TOUCHSTREAM_KAFKA_SSL_CAFILE names the authorities to trust; its name must be the broker's address"
_OF_ACCOUNT = "check TOUCHSTREAM_KAFKA_SASL_MECHANISM, _USERNAME and _PASSWORD"
_OF_PROTOCOL = "check TOUCHSTREAM_KAFKA_SECURITY_PROTOCOL, and the port in TOUCHSTREAM_KAFKA"


async def refusal(options: Mapping[str, Any]) -> Misconfigured | None:
    """What a person has to set right, or None: nobody answers. `options` are those of any aiokafka client."""
    if options["security_protocol"] == "PLAINTEXT":
        return None
    security = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    for address in str(options["bootstrap_servers"]).split(","):
        found = await _refusal_at(address, security)
        if found is not None:
            return found
    return None


async def _refusal_at(address: str, security: Mapping[str, Any]) -> Misconfigured | None:
    host, _, port = address.rpartition(":")
    found = None
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            (await create_conn(host.strip("[]"), int(port), **security)).close()
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message
        found = Misconfigured(f"the certificate of Kafka at {address} is not trusted: {why}", hint=_OF_TRUST)
    except ssl.SSLError as error:
        if not isinstance(error, _HANGING_UP):
            found = Misconfigured(f"Kafka at {address} refuses TLS: {error.reason or error}", hint=_OF_PROTOCOL)
    except _REFUSALS as error:
        user = security.get("sasl_plain_username")
        found = Misconfigured(f'Kafka at {address} refuses the user "{user}": {error}', hint=_OF_ACCOUNT)
    except ValueError as error:  # its last word does not prove that it knows the password
        found = Misconfigured(f"Kafka at {address} is not whom it should be: {error}", hint=_OF_ACCOUNT)
    except (KafkaError, TimeoutError, OSError):
        return None
    return found
