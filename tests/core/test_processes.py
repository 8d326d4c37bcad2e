"""Signals that ask a command to end."""

import signal
import subprocess
import sys

import pytest

from pipeline import processes
from pipeline.artifacts import paths

# A signal arrives while an object is destroyed, as a data loader is that waits for its workers.
PROGRAM = """
import os, time
from pipeline.cli import command

class Slow:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.3)

@command
def main():
    Slow()
    time.sleep(20)
    print("went on")

main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_meets_a_destructor_is_neither_lost_nor_a_traceback(number):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=int(number))],
        cwd=paths.ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # as no nohup does
    assert done.returncode == 128 + number and "went on" not in done.stdout
    assert done.stderr.splitlines() == [f"error: stopped by {number.name}; the same command goes on from what is saved"]


def test_what_a_command_and_its_own_children_used_is_told(tmp_path):
    work = "import time\nwhile time.process_time() < 0.3: pass\n"
    code = f"import subprocess, sys\n{work}\nsubprocess.run([sys.executable, '-c', {work!r}])\nsys.exit(3)"
    told = []
    assert processes.Children().run([sys.executable, "-c", code], told.append) == 3
    assert len(told) == 1 and 0.6 <= told[0] < 5
