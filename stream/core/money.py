"""Money in whole units of 0.00001, the finest step of the 202_ columns. Never a float."""

from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from functools import lru_cache
from typing import NewType

Units = NewType("Units", int)  # 1 = 0.00001 of the account's currency

UNITS_PER_ONE = 100_000
DECIMALS = 5

# Nothing is ever rounded: what does not fit sixty digits is refused instead.
_EXACT = Context(prec=60, Emax=60, Emin=-60, traps=[Inexact, InvalidOperation, Overflow])


def units_of(amount: Decimal) -> Units:
    """Exact; raises ValueError for more than five decimals or a value that is not a finite amount."""
    try:
        scaled = amount.scaleb(DECIMALS, _EXACT)
        units = int(scaled)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{amount!s:.60} is not an amount of money") from error
    if units != scaled:
        raise ValueError(f"{amount!s:.60} has more than {DECIMALS} decimals")
    return Units(units)


@lru_cache(maxsize=1 << 16)  # few prices are in use at a time, and dividing is dearer than looking up
def amount_text(units: Units) -> str:
    """Decimal text with five decimals, e.g. '-12.50000'."""
    sign = "-" if units < 0 else ""
    whole, rest = divmod(abs(units), UNITS_PER_ONE)
    return f"{sign}{whole}.{rest:0{DECIMALS}d}"
