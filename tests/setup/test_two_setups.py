"""Two set-ups of one environment at once, and ended ones; pip is a script that says when it works."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tools.pins import ROOT

# An environment whose pip writes into a list what it begins and ends, and takes its time.
PIP = """#!/bin/sh
case "$*" in
*"--version"*) echo pip 1 ;;
*"pip install"*)
    echo "begin $$" >>"$PIP_LOG"
    sleep "$PIP_SECONDS" & sleep=$!
    trap 'kill $sleep; exit 1' TERM
    wait; echo "end $$" >>"$PIP_LOG" ;;
*) exec {python} "$@" ;;
esac
"""
SET_UP = """
import sys
from tools import machine, setup_env
machine.check_compiler = machine.check_disk = lambda *_: None
setup_env.install_mmcv = lambda *_: None
setup_env.machine.python_version = lambda _: setup_env.pins.read_pins().python
setup_env.command()
"""


@pytest.fixture
def venv(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP.format(python=sys.executable))
    python.chmod(0o755)
    return tmp_path / "venv"


def start(venv, seconds="0.3"):
    environment = os.environ | {"PIP_LOG": str(venv / "log"), "PIP_SECONDS": seconds, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SET_UP, "--venv", str(venv)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def lines(venv):
    return (venv / "log").read_text().splitlines() if (venv / "log").exists() else []


def wait_for_pip(venv, process):
    while not lines(venv):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_the_second_waits_says_so_and_installs_nothing(venv):
    first = start(venv)
    wait_for_pip(venv, first)
    second = start(venv)
    said, errors = second.communicate(timeout=60)
    assert (first.wait(), second.returncode, errors) == (0, 0, "")
    assert said == f"another set-up works on {venv}: waiting for it\n"
    assert [line.split()[0] for line in lines(venv)] == ["begin", "end"] * 2, "torch, then the rest, by the first alone"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_an_ended_set_up_leaves_no_pip_and_the_next_goes_on(venv, name):
    first = start(venv, "60")
    wait_for_pip(venv, first)
    pip = int(lines(venv)[0].split()[1])
    first.send_signal(signal.Signals[name])
    _, errors = first.communicate(timeout=60)
    assert first.returncode != 0 and "Traceback" not in errors
    for _ in range(100):
        if not psutil.pid_exists(pip) or psutil.Process(pip).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    else:
        pytest.fail("pip goes on")
    assert not (venv / ".stamp").exists()
    assert start(venv, "0").wait(timeout=60) == 0
    assert (venv / ".stamp").exists()
    assert Path(venv / "bin" / "python").exists()
