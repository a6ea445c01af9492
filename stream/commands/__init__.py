"""The commands of `python -m stream`, one module each; a module's `command` is what `stream.__main__` loads."""
