"""What the machine refuses, and what asks a command to end: one line, the fitting exit code, nothing half-written."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import hardware
from pipeline.artifacts import files, paths
from pipeline.cli import command
from pipeline.errors import REMEDY, ExperimentError, Interrupted, Refused, first_line, one_line, refusal


def run(code, **options):
    """A command of the project whose main() has these lines, in a process of its own."""
    lines = "\n".join(f"    {line}" for line in code.splitlines())
    script = (
        "import errno, os, signal, sys, time\nfrom pathlib import Path\nfrom pipeline.artifacts import files\n"
        f"from pipeline.cli import command\n@command\ndef main():\n{lines}\nmain()"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKELEVEL", "DVC_STAGE")}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=paths.ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


@pytest.mark.parametrize("number", REMEDY, ids=errno.errorcode.get)
def test_a_refusal_is_one_line_with_path_and_remedy(number, capsys):
    def main():
        raise OSError(number, os.strerror(number), "/data/x.json")

    with pytest.raises(SystemExit) as exit_:
        command(main)()
    said = capsys.readouterr().err
    assert exit_.value.code == 1
    assert said == f"error: /data/x.json: {os.strerror(number)}; {REMEDY[number]}\n"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ours"),
        OSError(errno.EINVAL, "Invalid argument"),
        OSError("text alone"),
        RuntimeError("shape mismatch"),
    ],
)
def test_a_mistake_of_ours_stays_a_traceback(error):
    assert refusal(error) is None
    with pytest.raises(type(error)):
        command(lambda: (_ for _ in ()).throw(error))()


class Faulty:
    """A dataset whose images raise."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ExperimentError("a.jpg: truncated; run x\n  detail\nlast words"), "a.jpg: truncated; run x"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), f"/a: Too many open files; {REMEDY[errno.EMFILE]}"),
    ],
)
def test_an_error_of_a_data_worker_keeps_its_own_first_line(error, line):
    with pytest.raises(type(error)) as raised:
        next(iter(DataLoader(Faulty(error), num_workers=1, multiprocessing_context="fork")))
    assert one_line(raised.value) == line


def test_a_reason_below_a_colon_belongs_to_the_line():
    with pytest.raises(RuntimeError) as raised:
        torch.nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(2, 2)})
    assert one_line(raised.value).endswith('loading state_dict for Linear: Missing key(s) in state_dict: "bias".')
    assert first_line("") == "" and one_line(KeyboardInterrupt()) == "stopped by SIGINT"


def test_a_file_too_large_is_refused_and_the_old_content_stays(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))\n"
    done = run(limit + f"files.write_json(Path({str(path)!r}), ['x' * 5000])")
    _, said = done.communicate(timeout=60)
    assert (done.returncode, said) == (1, f"error: {path}: File too large; {REMEDY[errno.EFBIG]}\n")
    assert files.read_json(path) == {"old": 1} and os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch, call):
    path = tmp_path / "new" / "x.json"
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_):
        raise full

    if call != "write":
        monkeypatch.setattr(os, call, refuse)
    with pytest.raises(Refused, match=rf"^{path}: No space left on device; free some space"):
        with files.writing(path, durable=True):
            if call == "write":
                refuse()
    assert not list(path.parent.iterdir())


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    path = tmp_path / "x.json"
    killed = run(f"with files.writing(Path({str(path)!r})) as file: os.kill(os.getpid(), signal.SIGKILL)")
    killed.wait()
    [left] = tmp_path.iterdir()
    assert left.name.startswith("x.json.") and left.name.endswith(".part")
    foreign = tmp_path / "x.json.elsewhere-1-00000000.part"  # of a writer on another machine of a cluster
    foreign.touch()
    files.write_text(path, "new")
    assert sorted(tmp_path.iterdir()) == [path, foreign] and path.read_text() == "new"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_one_line_and_its_exit_code(name):
    process = run("print('begun', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.Signals[name]
    assert said == f"error: stopped by {name}; the same command goes on from what is saved\n"


def test_ctrl_c_while_libraries_load_is_no_traceback():
    code = "import pipeline; print('begun', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=paths.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "error: stopped by SIGINT\n"


def test_nohup_is_respected():
    ignoring = subprocess.run(
        [
            "nohup",
            sys.executable,
            "-c",
            "import os, signal\nfrom pipeline.cli import command\n"
            "command(lambda: (os.kill(os.getpid(), signal.SIGHUP), print('goes on')))()",
        ],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert ignoring.returncode == 0 and "goes on" in ignoring.stdout


def test_a_reader_that_has_enough_ends_a_command_in_silence():
    process = run("for _ in range(10**6): print('line')")
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (128 + signal.SIGPIPE, "")


def test_a_command_of_dvc_ends_with_dvc(tmp_path):
    """The process between is killed, as `dvc` may be."""
    inner = (
        "import time\nfrom pathlib import Path\nfrom pipeline.cli import command\n"
        f"command(lambda: (Path({str(tmp_path / 'begun')!r}).touch(), time.sleep(60)))()\n"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    dvc = subprocess.Popen(
        [sys.executable, "-c", outer],
        cwd=paths.ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"DVC_STAGE": "train@x"},
    )
    while not (tmp_path / "begun").exists():
        assert dvc.poll() is None
        time.sleep(0.02)
    dvc.kill()
    assert dvc.stderr.read() == "error: stopped by SIGTERM; the same command goes on from what is saved\n"
    dvc.wait()


def test_an_interrupted_training_tells_the_signal():
    with pytest.raises(SystemExit) as exit_:
        command(lambda: (_ for _ in ()).throw(Interrupted("stopped", signal.SIGINT)))()
    assert exit_.value.code == 130


NUMBERS = {
    "OMP_NUM_THREADS": lambda: hardware.use_device(),
    "CONTRASTMASK_WORKERS": hardware.data_workers,
    "CONTRASTMASK_TEST_BATCH": hardware.test_batch,
}


@pytest.mark.parametrize("variable", NUMBERS)
@pytest.mark.parametrize("value", ["4,2", "auto", "0", "-1", "1.5", "²", "99999999999999999999"])
def test_a_bad_number_in_the_environment_is_one_line(variable, value, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ExperimentError, match=rf"^{variable}='{value}': not a number of \w+.*; valid: 1, 2, ..."):
        NUMBERS[variable]()


@pytest.mark.parametrize("variable", NUMBERS)
@pytest.mark.parametrize("value", ["", " ", "1"])
def test_an_empty_number_in_the_environment_is_the_default(variable, value, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv(variable, value)
    assert NUMBERS[variable]() in (1, "cpu")
