"""The broker, the database and the cache on this machine, for tests, demo and bench. Standard library only."""
