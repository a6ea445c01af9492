"""The memcached of this installation."""

from stream.config import Settings, host_port
from tables.cache import JourneyCache


def journey_cache(settings: Settings) -> JourneyCache:
    """Where none is set, one that does nothing."""
    host, port = host_port(settings.memcached) if settings.memcached else ("", 0)
    return JourneyCache(host, port, settings.memcached_sites)
