"""The product, with pages so small that a purge takes a while: `python -m tests.support.small_pages purge OPTIONS`.

It has no option for them. What a page does, its transaction included, is the same.
"""

from types import ModuleType

from stream.__main__ import main
from stream.commands import purging
from tables.sql import purge_ranges

PAGE = 2

if __name__ == "__main__":
    modules: tuple[ModuleType, ...] = (purging, purge_ranges)
    for module in modules:
        assert PAGE < module.PAGE
        setattr(module, "PAGE", PAGE)  # noqa: B010 - mypy takes it for a constant
    main()
