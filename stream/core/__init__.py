"""Ring 0: the behaviour, as pure functions of values. Standard library only, and no clock, disk or network of it."""
