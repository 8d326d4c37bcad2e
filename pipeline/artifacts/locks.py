"""Lock files that say what they wait for, and that say so where locks do not work.

A lock is the kernel's (`flock`), not the file's existence: it ends with the process that holds it, however that ends.
"""

import contextlib
import logging
import os
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.artifacts.locks")

PATIENCE = 3.0  # seconds of silence before a wait is told
TABLE = Path("/proc/locks")  # Linux: who holds which lock on this machine


@contextlib.contextmanager
def hold(path, what):
    """Hold a lock file, waiting for another process that has it; a wait is told after `PATIENCE` seconds.

    Args:
        path: of the lock file; its folder exists. The file stays there.
        what: the lock protects, for messages.

    Raises:
        ExperimentError: the file cannot be opened, or its file system has no locks.
    """
    lock = lock_file(path)
    take(lock, what)
    try:
        yield
    finally:
        lock.release()


def lock_file(path):
    """A lock for `take`, not yet held."""
    return FileLock(path, fallback_to_soft=False)


def take(lock, what, seconds=-1):
    """Acquire a lock of `lock_file`, told as by `hold`.

    Args:
        seconds: to wait at most; below 0 without end.

    Returns:
        Whether it is held now.

    Raises:
        ExperimentError: as `hold`.
    """
    path = lock.lock_file
    # A timer, since a network file system may also hang inside of the system call.
    telling = threading.Timer(PATIENCE, _tell, (path, what))
    telling.daemon = True
    telling.start()
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExperimentError(
            f"cannot lock {path} for {what}: {reason}; that folder has to be writable and on a file system with locks "
            "(a network file system needs its lock service), or set CONTRASTMASK_HOME to a folder that is"
        ) from None
    finally:
        telling.cancel()
    return True


def _tell(path, what):
    holder = _holder(path)
    logger.warning("waiting for %s: %s is locked by %s; Ctrl-C gives up", what, path, holder or "another process")


def _holder(path):
    """The process of this machine that holds a lock, as text; `None` if unknown."""
    try:
        inode = str(os.stat(path).st_ino)
        rows = [line.split() for line in TABLE.read_text().splitlines()]
        [number] = {row[4] for row in rows if row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode}
        command = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, ValueError, IndexError):
        return None
    return f"process {number} ({command[:100]})"
