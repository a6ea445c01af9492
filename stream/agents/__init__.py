"""Ring 4: what happens to a chunk. No decisions; those are core's."""
