"""`safelight` on a machine whose clock is wrong: `python -m tests.acceptance.skewed SECONDS COMMAND …`."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

SKEW = timedelta(seconds=float(sys.argv.pop(1)))


class Skewed(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + SKEW


def main() -> None:
    from safelight import cli  # noqa: PLC0415 - after the clocks were put wrong
    from safelight.adapters import clock  # noqa: PLC0415 - as above
    from safelight.adapters.postgres import clock as shared  # noqa: PLC0415 - as above

    for module in (clock, shared):
        module.datetime = Skewed  # type: ignore[attr-defined] # that is the point
    assert clock.SystemClock().now() - datetime.now(UTC) > SKEW - timedelta(seconds=1)
    cli.main()


if __name__ == "__main__":
    main()
