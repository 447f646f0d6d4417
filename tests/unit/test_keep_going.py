"""Work that goes on as long as the process does."""

from structlog.testing import capture_logs

from safelight.application.keep_going import keep_going


async def test_work_that_crashes_begins_anew_until_it_ends_by_itself() -> None:
    faults, pauses = [ValueError("a fault of ours"), KeyError("another")], list[float]()

    async def work() -> None:
        if faults:
            raise faults.pop()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    with capture_logs() as lines:
        await keep_going("sweeper", work, pause=pause)
    assert pauses == [1.0, 1.0]
    assert [(line["event"], line["work"]) for line in lines] == [("work_crashed", "sweeper")] * 2
