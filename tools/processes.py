"""One set-up at a time, and nothing that it started outlives it. Standard library alone."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>

# Descriptors of locks. What is started inherits them: a lock outlives a killed set-up for as long as its pip does.
_held = []


@contextlib.contextmanager
def alone(folder, wait):
    """Hold the lock of an environment; the system frees it with the last process that works on it.

    The lock is on the folder around it: the environment itself may be removed and made anew inside.

    Args:
        folder: pathlib.Path of the environment.
        wait: called before waiting for another process that has the lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                print(f"no file locks on {folder.parent} ({error.strerror}): start one set-up at a time", flush=True)
        _held.append(descriptor)
        yield
    finally:
        os.close(descriptor)
        if descriptor in _held:
            _held.remove(descriptor)


def start(command, **options):
    """subprocess.Popen of a command in a process group of its own that ends with this process."""
    return subprocess.Popen(command, start_new_session=True, preexec_fn=_tie, pass_fds=_held, **options)


def run(command, **options):
    """Run a command and return its exit status; it and what it started end if this process is asked to."""
    process = start(command, **options)
    try:
        return process.wait()
    except BaseException:
        end(process)
        raise


def end(process):
    """End what `start` started, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def _tie():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
