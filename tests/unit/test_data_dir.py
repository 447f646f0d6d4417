"""The folder of an embedded installation."""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from safelight.adapters import data_dir
from safelight.adapters.data_dir import DataDir, DataDirInUse, Holder, acquire, check_free, holder
from safelight.domain.errors import ConfigurationError

HOLD = """
import sys
from pathlib import Path
from safelight.adapters.data_dir import acquire
held = acquire(Path(sys.argv[1]), address="http://127.0.0.1:1")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_made_and_is_nobody_elses_business(tmp_path: Path) -> None:
    held = acquire(tmp_path / "a" / "b")
    assert held.path.stat().st_mode & 0o077 == 0
    assert held.database.parent == held.blobs.parent == held.path
    held.release()


def test_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    held = acquire(tmp_path, address="http://127.0.0.1:8080")
    expected = f"the data folder {tmp_path} is in use by process {os.getpid()} at http://127.0.0.1:8080"
    for attempt in (acquire, check_free):
        with pytest.raises(DataDirInUse) as caught:
            attempt(tmp_path)
        assert str(caught.value) == expected
        assert caught.value.holder == Holder(pid=os.getpid(), address="http://127.0.0.1:8080")
    held.release()
    check_free(tmp_path)
    acquire(tmp_path).release()


def test_a_process_that_was_killed_leaves_the_folder_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(DataDirInUse, match=f"process {process.pid} at http://127.0.0.1:1"):
            acquire(tmp_path)
        process.kill()
    assert holder(tmp_path) == Holder(pid=process.pid, address="http://127.0.0.1:1")
    held = acquire(tmp_path)
    assert holder(tmp_path) == Holder(pid=os.getpid())
    held.release()


def test_a_holder_that_said_nothing_is_another_process(tmp_path: Path) -> None:
    held = acquire(tmp_path)
    (tmp_path / "lock").write_bytes(b"")
    with pytest.raises(DataDirInUse, match="in use by another process"):
        acquire(tmp_path)
    (tmp_path / "lock").write_bytes(b"[1")
    assert holder(tmp_path) is None
    held.release()


def test_a_folder_that_nobody_ever_used_is_free(tmp_path: Path) -> None:
    check_free(tmp_path)
    assert holder(tmp_path) is None


def test_a_folder_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        acquire(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="cannot be used: Not a directory"):
        acquire(tmp_path / "file" / "inner")


def test_the_encryption_key_is_made_once_and_is_ours_alone(tmp_path: Path) -> None:
    held = acquire(tmp_path)
    key = held.encryption_key()
    assert len(key) >= 32
    assert held.encryption_key() == key
    assert (tmp_path / "encryption.key").stat().st_mode & 0o077 == 0
    held.release()


def orphaned(path: Path) -> tuple[DataDir, int]:
    """A folder whose lock is held for a process that is gone, and who that was."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    held = acquire(path)
    (path / "lock").write_bytes(msgspec.json.encode(Holder(pid=gone.pid)))
    return held, gone.pid


def test_what_a_killed_process_left_at_work_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan, _ = orphaned(tmp_path)
    looks: list[float] = []

    def look_again(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            orphan.release()

    monkeypatch.setattr(time, "sleep", look_again)
    held = acquire(tmp_path)
    assert len(looks) == 3
    held.release()


def test_it_is_not_waited_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan, gone = orphaned(tmp_path)
    monkeypatch.setattr(data_dir, "_ORPHAN_PATIENCE_S", 0.05)
    with pytest.raises(DataDirInUse, match=f"process {gone}"):
        acquire(tmp_path)
    orphan.release()
