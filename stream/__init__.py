"""Streaming multi-touch attribution: from click and conversion events on Kafka to journeys in SQL.

Read inwards. Each ring imports only those below it; import-linter holds the contracts in pyproject.toml.

    commands/, __main__     one module a command; wiring only
    worker, health          the composition: Faust, SQL and settings meet here, and nowhere else
    agents/                 what happens to a chunk, as a short list of awaited steps
    engine/                 Faust, in chunks: membership, alignment, barrier, fence, changelog, recovery
    wire/                   bytes <-> events; dead letters
    config, topics, ...     settings, topics.yaml, metrics
    core/                   pure: events, journeys and the fold; no clock, disk, network or framework

Beside it, `tables` is what outlives an event: `tables.state` (changelog values) and `tables.sql` (the 202_ tables).
"""
