"""Signals and the processes of a training: what is asked to end does so, and nothing outlives what started it."""

import contextlib
import os
import signal
import subprocess
import threading
import time

import psutil

from pipeline import tie_to_parent
from pipeline.errors import Stopped

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh", "tcsh", "csh", "ash")
AGAIN_SECONDS = 0.05
PATIENCE_SECONDS = 20  # for a `dvc` that runs no stage to end by itself


def tie_to_trainer(_):
    """Let a data worker end when its trainer does and not before.

    Signals for the trainer's process group would take the worker from a trainer that finishes its step; and one whose
    trainer was killed waits for ever for somebody to take its batch.
    """
    os.setpgid(0, 0)
    tie_to_parent(signal.SIGKILL)


def _raise(number, frame):
    while frame:
        if frame.f_code.co_name == "__del__":  # Python prints and drops what is raised there: ask again behind it
            again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)


def raise_when_asked_to_end():
    """Turn SIGTERM and SIGHUP into Stopped, SIGINT into KeyboardInterrupt, behind a destructor that runs.

    One that is ignored, as under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _raise)


@contextlib.contextmanager
def handling(handler):
    """Handle all signals that ask this process to end; ignored ones stay ignored. Only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in ENDING}
    former = {number: known for number, known in former.items() if known not in (signal.SIG_IGN, None)}
    for number in former:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in former.items():
            signal.signal(number, known)


class Children:
    """`dvc` processes that end with this one.

    Each has a session of its own, so that Ctrl-C reaches it through `end` alone. That asks its stage and not DVC
    itself, which then notes that the stage failed and lets go of its locks.
    """

    def __init__(self):
        self._running, self._lock, self.ending = set(), threading.Lock(), threading.Event()

    def run(self, command, account=None, **options):
        """Wait for a command and return its exit status; while `end` is at work nothing is started any more.

        Args:
            command: arguments, the program first.
            account: called with the processor seconds of the command and of what it waited for, once it has ended.
            options: of subprocess.Popen.
        """
        with self._lock:
            if self.ending.is_set():
                return 128 + signal.SIGTERM
            child = subprocess.Popen(command, start_new_session=True, preexec_fn=tie_to_parent, **options)
            self._running.add(child)
        try:
            return _wait(child, account)
        except KeyboardInterrupt:
            self.end()
            raise
        finally:
            with self._lock:
                self._running.discard(child)

    def end(self):
        """Ask all stages to end, once each, and wait; a second Ctrl-C ends them at once. Nothing more is started."""
        self.ending.set()
        told, began = set(), time.monotonic()
        while running := self._alive():
            try:
                for child in running:
                    self._tell(child, told, time.monotonic() - began)
                time.sleep(0.1)
            except Stopped:  # again, as when `make` passes on what has reached us too
                continue
            except KeyboardInterrupt:
                for child in running:
                    _kill(child.pid)

    def _alive(self):
        with self._lock:
            return [child for child in self._running if child.poll() is None]

    def _tell(self, child, told, seconds):
        stages = _stages(child.pid)
        for stage in stages:
            if stage not in told:  # once: torchrun leaves at a second signal before its processes have saved
                told.add(stage)
                with contextlib.suppress(psutil.Error):
                    stage.terminate()
        if not stages and seconds > PATIENCE_SECONDS and child not in told:  # it waits for a lock
            told.add(child)
            child.send_signal(signal.SIGINT)


def _wait(child, account):
    """Wait for a process as its own `wait` does, but learn what it used."""
    if account is None:
        return child.wait()
    with contextlib.suppress(ChildProcessError):  # `poll` of the thread that ends everything was first
        # Left unreaped, so that `poll` of another thread never sees the number of another process.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        account(usage.ru_utime + usage.ru_stime)
    return child.wait()


def _stages(pid):
    """What a `dvc` process runs, behind a shell or not."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children():
            found += child.children() if child.name() in SHELLS else [child]
    return found


def _kill(pid):
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                each.kill()
