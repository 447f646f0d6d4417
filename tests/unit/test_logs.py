"""In processes of their own: logging is set up once for the whole of one."""

import json
import subprocess
import sys

PROGRAM = """
import logging, sys, warnings
import structlog
from safelight import logs
log = structlog.get_logger(__name__)
logs.configure(style=sys.argv[1], level=sys.argv[2])
secret = "sk-a-local-variable"
log.debug("too_much")
log.info("told", job_id="j", at=object)
logging.getLogger("library").info("chatter")
logging.getLogger("library").warning("%s matters", "this")
warnings.warn("old habits")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("crashed")
"""

LOOP = """
import asyncio, sys, threading
import structlog
from safelight import logs
log = structlog.get_logger(__name__)
logs.configure(style="json", level="debug")
writes = []
stream = logs._Unfailing
def write(self, text, write=stream.write):
    writes.append(text.count(b"\\n"))
    write(self, text)
stream.write = write
async def main():
    log.info("first")
    log.debug("second")
    assert writes == []
    await asyncio.sleep(0)
    assert writes == [2]
    log.info("third")
    log.warning("fourth")
    assert writes == [2, 2]
    thread = threading.Thread(target=log.info, args=("fifth",))
    thread.start()
    thread.join()
    assert writes == [2, 2, 1]
    log.info("last")
    raise RuntimeError("the end")
asyncio.run(main())
"""


def test_lines_of_one_turn_are_written_together_in_order_and_none_is_lost() -> None:
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=False)
    told = done.stderr.splitlines()
    assert [json.loads(line)["event"] for line in told[:6]] == ["first", "second", "third", "fourth", "fifth", "last"]
    assert told[6].startswith("Traceback")
    assert told[-1] == "RuntimeError: the end"


def lines(style: str, level: str = "info") -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, style, level], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "sk-a-local-variable" not in done.stderr
    return done.stderr.splitlines()


def test_json_is_one_object_a_line_whoever_logs() -> None:
    events = [json.loads(line) for line in lines("json")]
    assert [event["event"] for event in events[:2]] == ["told", "this matters"]
    assert [event["level"] for event in events] == ["info", "warning", "warning", "error"]
    assert events[0]["job_id"] == "j"
    assert events[0]["timestamp"].endswith("Z")
    assert events[1]["logger"] == "library"
    assert "old habits" in events[2]["event"]
    assert events[3]["exception"].endswith("ZeroDivisionError: division by zero")


def test_the_console_is_plain_where_it_is_no_terminal() -> None:
    told = lines("console")
    assert "told" in told[0]
    assert told[-1] == "ZeroDivisionError: division by zero"
    assert "\x1b" not in "".join(told)


def test_what_is_below_the_level_is_dropped() -> None:
    assert [json.loads(line)["event"] for line in lines("json", "error")] == ["crashed"]
    assert json.loads(lines("json", "debug")[0])["event"] == "too_much"
