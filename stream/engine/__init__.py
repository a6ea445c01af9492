"""Ring 3: Faust, in chunks. README.md beside this file says what is taken from Faust, what is replaced, and why."""
