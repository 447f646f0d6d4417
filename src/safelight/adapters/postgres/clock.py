"""The database's time, so that all processes have the same, whatever their machines say."""

import time
from datetime import UTC, datetime, timedelta

_LONGEST_ANSWER_S = 1.0


class DatabaseClock:
    """Goes by this machine's monotonic clock from the moment that the database told."""

    def __init__(self) -> None:
        """Until it is told, it has this machine's time."""
        self._moment = datetime.now(UTC)
        self._at = time.monotonic()

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self._moment + timedelta(seconds=time.monotonic() - self._at)

    def set(self, now: datetime, took_s: float) -> None:
        """Take over the database's time, unless it took so long to tell that it says little."""
        if took_s <= _LONGEST_ANSWER_S:
            self._moment = now.astimezone(UTC) + timedelta(seconds=took_s / 2)
            self._at = time.monotonic()
