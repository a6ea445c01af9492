"""The only clock. Wall time is for columns like created_at and for ages in metrics; no result depends on it."""

import time


def unix_now() -> float:
    """Unix seconds."""
    return time.time()
