import json
import subprocess
import sys

import pytest

from pipeline.artifacts import attempts, paths
from pipeline.artifacts.training_log import read_log
from pipeline.errors import ExperimentError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))


def progress(fingerprint, **fields):
    path = paths.scratch(fingerprint) / "progress.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(fields))


def test_no_attempt_no_status():
    assert attempts.read("toy", "ours") is None


def test_an_attempt_that_runs_tells_how_far_it_is():
    progress("abc", iteration=50, of=200, seconds=25.0)
    with attempts.attempt("toy", "ours", "train") as working_on:
        working_on("abc")
        known = attempts.read("toy", "ours")
        assert (known.state, known.describe(), known.eta) == ("running", "running at iteration 50 of 200", 75.0)
    assert attempts.read("toy", "ours").state == "trained"
    with attempts.attempt("toy", "ours", "evaluate"):
        pass
    assert attempts.read("toy", "ours").state == "evaluated"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ExperimentError("loss is nan"), "loss is nan"),
        (ValueError("a\nb"), "ValueError: a"),
        (KeyError(), "KeyError"),
        (OSError(28, "No space left on device", "/x"), "/x: No space left on device; free some space"),
    ],
)
def test_a_failure_keeps_its_own_first_line(error, line):
    with pytest.raises(type(error)):
        with attempts.attempt("toy", "ours", "train"):
            raise error
    known = attempts.read("toy", "ours")
    assert known.state == "failed" and known.error.startswith(line) and "\n" not in known.error


def test_ctrl_c_is_no_failure():
    with pytest.raises(KeyboardInterrupt):
        with attempts.attempt("toy", "ours", "evaluate"):
            raise KeyboardInterrupt
    assert attempts.read("toy", "ours").describe() == "interrupted (evaluate)"


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"{}",
    b'{"state": 3}',
    b'{"state": "running", "stage": "train"}',
    b'{"state": "running", "stage": "train", "fingerprint": 7}',
    b"[" * 100000,
    b"\0" * 512,
    b'{"iteration": "x", "of": 1, "seconds": 1}',
    b'{"iteration": 1, "of": 0, "seconds": NaN}',
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_are_no_status_and_no_traceback(content):
    """Of a status, of a training's progress and of its log."""
    with attempts.attempt("toy", "ours", "train") as working_on:
        working_on("abc")
    path = paths.statuses("toy") / "ours.json"
    whole = path.read_bytes()
    progress("abc", iteration=50, of=200, seconds=25.0)
    path.write_bytes(content)
    known = attempts.read("toy", "ours")
    assert known is None
    attempts.settle("toy", "ours")
    path.write_bytes(whole)
    for name in ("progress.json", "log.jsonl"):
        (paths.scratch("abc") / name).write_bytes(content)
    known = attempts.read("toy", "ours")
    assert (known.state, known.iteration, known.eta) == ("trained", None, None)
    assert read_log(paths.scratch("abc") / "log.jsonl") == []


def test_a_killed_attempt_is_interrupted():
    progress("abc", iteration=50, of=200, seconds=25.0)
    code = (
        "import os, signal\nfrom pipeline.artifacts import attempts\n"
        "with attempts.attempt('toy', 'ours', 'train') as working_on:\n"
        "    working_on('abc')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=False)
    assert attempts.read("toy", "ours").describe() == "interrupted at iteration 50 of 200"


def test_a_labelling_is_an_attempt_of_its_own():
    progress("abc", iteration=50, of=200, seconds=25.0)
    with attempts.attempt("toy", "ours", "evaluate"):
        pass
    with attempts.attempt("toy", attempts.labelling("ours"), "label") as working_on:
        working_on("abc")
        known = attempts.read("toy", attempts.labelling("ours"))
        assert (known.describe(), known.eta) == ("running at image 50 of 200", 75)
    assert attempts.read("toy", attempts.labelling("ours")).state == "labelled"
    assert attempts.read("toy", "ours").state == "evaluated"
