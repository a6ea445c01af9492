"""Ring 2: keys, values and formats of changelog-backed state; no Faust here."""
