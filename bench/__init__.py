"""How fast are we, beside others who do the same kind of job on the same events? docs/benchmarks.md tells the rest."""
