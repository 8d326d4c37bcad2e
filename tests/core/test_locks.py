import errno
import logging
import os
import subprocess
import sys
import time

import pytest

from pipeline.artifacts import locks, paths
from pipeline.errors import ExperimentError


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
@pytest.mark.parametrize("left_behind", [False, True])
def test_a_file_system_without_locks_is_told_in_one_line(tmp_path, monkeypatch, number, left_behind):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    if left_behind:
        (tmp_path / "a.lock").touch()
    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(ExperimentError) as caught:
        with locks.hold(tmp_path / "a.lock", "the images"):
            pytest.fail("no lock is held")
    text = str(caught.value)
    assert text.startswith(f"cannot lock {tmp_path}/a.lock for the images: {os.strerror(number)}; ")
    assert "CONTRASTMASK_HOME" in text and "\n" not in text


def test_a_folder_in_place_of_a_lock(tmp_path):
    (tmp_path / "a.lock").mkdir()
    with pytest.raises(ExperimentError, match="cannot lock .*a.lock for it: Is a directory"):
        with locks.hold(tmp_path / "a.lock", "it"):
            pytest.fail("no lock is held")


@pytest.fixture
def messages(caplog):
    logger = logging.getLogger("pipeline")  # a stage of another test may have taken it off the root
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


HOLDER = """
import sys
from pipeline.artifacts import locks
with locks.hold(sys.argv[1], 'it'):
    print(flush=True)
    input()
"""


def test_a_wait_names_who_holds_the_lock_and_ends_with_it(tmp_path, monkeypatch, messages):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a.lock")],
        cwd=paths.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    try:
        lock = locks.lock_file(tmp_path / "a.lock")
        assert not locks.take(lock, "the images", 0.5)
        [text] = {record.getMessage() for record in messages.records}
        assert text.startswith(f"waiting for the images: {tmp_path}/a.lock is locked by process {holder.pid} (")
    finally:
        holder.kill()
        holder.communicate()
    assert locks.take(lock, "the images", 5), "a killed process leaves no lock"
    lock.release()


def test_a_system_call_that_hangs_is_told(tmp_path, monkeypatch, messages):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    monkeypatch.setattr("fcntl.flock", lambda *_: time.sleep(0.3))
    with locks.hold(tmp_path / "a.lock", "the images"):
        pass
    assert f"waiting for the images: {tmp_path}/a.lock is locked by another process" in messages.text


def test_a_free_lock_is_taken_without_a_word(tmp_path, messages):
    with locks.hold(tmp_path / "a.lock", "it"):
        pass
    assert not messages.records
