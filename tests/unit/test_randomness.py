"""Random bytes from the reserve are as good as the system's own: none is given twice."""

import subprocess
import sys
from uuid import UUID

from safelight.randomness import random_bytes, random_uuid

FORKS = """
import os
from safelight.randomness import random_bytes
print(random_bytes(16).hex(), flush=True)
child = os.fork()
if child:
    os.waitpid(child, 0)
print(random_bytes(16).hex(), flush=True)
"""


def test_bytes_are_as_many_as_asked_for_and_never_the_same() -> None:
    given = [random_bytes(16) for _ in range(2000)]
    assert {len(piece) for piece in given} == {16}
    assert len(set(given)) == 2000
    assert len(random_bytes(10)) == 10


def test_a_uuid_is_of_version_4() -> None:
    made = {random_uuid() for _ in range(1000)}
    assert len(made) == 1000
    assert {(UUID(text).version, str(UUID(text)) == text) for text in made} == {(4, True)}


def test_a_forked_process_gives_others() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert len(set(done.stdout.split())) == 3
