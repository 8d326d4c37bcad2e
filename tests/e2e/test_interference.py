"""A few cases of benchmarks/interference.py: what is ended in the middle of a training, and goes on."""

import signal

import pytest

from benchmarks import interference

pytestmark = pytest.mark.slow


def test_whatever_is_ended_nothing_is_lost_false_or_left_running(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path / "clone"))
    (tmp_path / "clone").mkdir()
    signals = interference.Signals(interference.make_clone(tmp_path / "clone"))
    for what, number in (("dvc", signal.SIGKILL), ("launch", signal.SIGINT), ("make", signal.SIGTERM)):
        signals.case(what, number, "in its loop")
    signals.finish()
