"""The log as the backfill: facts stored as a worker would, journeys computed once more by the same core."""
