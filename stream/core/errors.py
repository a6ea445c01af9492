"""The errors of the project, split by what their catcher does.

StreamError
|-- InvalidEvent        dead-letter the record; trying again cannot help
|-- Misconfigured       refuse to start, exit 2; a person has to change a setting
|-- StartRefused        refuse to process, exit 1; a person has to run the command that the hint names
|-- Unavailable         wait and try again; nothing was acknowledged
|-- RefusedByDatabase   halve the chunk until one event is left, then dead-letter that one
|-- Fenced              another worker owns the partition: write nothing more, leave
"""


class StreamError(Exception):
    """Base of all; `hint` names the remedy and stands apart from what is wrong."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InvalidEvent(StreamError):
    """A record that cannot become an event. `reason` is one of `stream.wire.reasons`, for counters and headers."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Misconfigured(StreamError):
    """A setting, topics.yaml or an option is wrong."""


class StartRefused(StreamError):
    """Broker and database do not fit each other: going on could lose or double rows."""


class Unavailable(StreamError):
    """Broker, database or cache did not answer."""


class RefusedByDatabase(StreamError):
    """The database answered, and did not take the data."""


class Fenced(StreamError):
    """The progress row carries another owner or epoch than ours."""
