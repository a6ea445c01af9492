"""Deliberate bugs, as patches to the shipped files: the simulation has to catch each of them."""
