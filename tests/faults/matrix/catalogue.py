"""All faults, in the order they are run."""

from tests.faults.matrix import (
    broker_faults,
    command_faults,
    database_faults,
    host_faults,
    log_faults,
    network_faults,
    worker_faults,
)
from tests.faults.matrix.contract import named

ALL = named(
    [
        *worker_faults.FAULTS,
        *broker_faults.FAULTS,
        *database_faults.FAULTS,
        *network_faults.FAULTS,
        *host_faults.FAULTS,
        *log_faults.FAULTS,
        *command_faults.FAULTS,
    ]
)
