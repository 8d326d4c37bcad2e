import json
import subprocess
import sys

import pytest

from pipeline import paths, status
from pipeline.errors import ExperimentError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))


def progress(fingerprint, **fields):
    path = paths.scratch(fingerprint) / "progress.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(fields))


def test_no_attempt_no_status():
    assert status.read("toy", "ours") is None


def test_an_attempt_that_runs_tells_how_far_it_is():
    progress("abc", iteration=50, of=200, seconds=25.0)
    with status.attempt("toy", "ours", "train") as working_on:
        working_on("abc")
        known = status.read("toy", "ours")
        assert (known.state, known.describe(), known.eta) == ("running", "running at iteration 50 of 200", 75.0)
    assert status.read("toy", "ours").state == "trained"
    with status.attempt("toy", "ours", "evaluate"):
        pass
    assert status.read("toy", "ours").state == "evaluated"


@pytest.mark.parametrize(
    ("error", "line"),
    [(ExperimentError("loss is nan"), "loss is nan"), (ValueError("a\nb"), "ValueError: b"),
     (KeyboardInterrupt(), "KeyboardInterrupt: ")],
)  # fmt: skip
def test_a_failure_keeps_its_last_line(error, line):
    with pytest.raises(type(error)):
        with status.attempt("toy", "ours", "train"):
            raise error
    known = status.read("toy", "ours")
    assert (known.state, known.error) == ("failed", line)


def test_a_killed_attempt_is_interrupted():
    progress("abc", iteration=50, of=200, seconds=25.0)
    code = (
        "import os, signal\nfrom pipeline import status\n"
        "with status.attempt('toy', 'ours', 'train') as working_on:\n"
        "    working_on('abc')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=False)
    assert status.read("toy", "ours").describe() == "interrupted at iteration 50 of 200"
