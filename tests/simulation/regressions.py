"""Cases that failed once, with a word on why. They stay as they were found: smaller than their seeds.

What `case.py` draws decides them: a change there makes them other cases, and they are to be found again.
"""

from tests.simulation.case import Case, numbers_of

REGRESSIONS = {
    "a sleeper's state, behind that of an owner that stayed over a rebalance, was taken for the newer one": Case(
        33, events=(30, 34, 35), faults=(5, 8)
    ),
    "a journey that hands had deleted came back as version 1, as which its hour had credited other money": Case(
        966, events=numbers_of("0-89,105-167,169-184,186-224,226-246"), faults=(0, 1, 2)
    ),
    "a journey that earned nothing came back behind the version that readers of its topic knew": Case(
        26, events=numbers_of("7,9,16-17,19-21,23-24,26,50-53,55-57,117"), faults=()
    ),
}
