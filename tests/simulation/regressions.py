"""Cases that failed once, with a word on why. They stay as they were found: smaller than their seeds.

What `case.py` draws decides them: a change there makes them other cases, and they are to be found again.
"""

from tests.simulation.case import Case

REGRESSIONS = {
    "a sleeper's state, behind that of an owner that stayed over a rebalance, was taken for the newer one": Case(
        33, events=(30, 34, 35), faults=(5, 8)
    ),
}
