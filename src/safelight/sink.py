"""Where streamed bytes go: one protocol for values lifted out of JSON and for uploaded files."""

from typing import Protocol


class Sink(Protocol):
    """The bytes of one value, in order. Exactly one of `close` and `abort` ends it, and nothing follows that.

    An error raised by `write` leads to `abort`; an error raised by `close` does not. What was closed stays with the
    owner, also when the rest of the body turns out to be broken.
    """

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes, at most 64 KiB and never none."""
        ...

    async def close(self) -> None:
        """Finish: the value is complete."""
        ...

    async def abort(self) -> None:
        """Drop it: the value was not what it should be, or its source failed."""
        ...
