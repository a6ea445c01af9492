"""Every fault on the real parts, each held against the oracles: `python -m tests.faults.matrix`."""
