"""A machine that lacks something is told so in one line."""

import shutil
import sys
from types import SimpleNamespace

import pytest

from tools import machine, setup_env
from tools.pins import SetupError


@pytest.fixture
def path_with(tmp_path, monkeypatch):
    """Make PATH a folder that holds just the given scripts (name -> body)."""

    def replace_path(**scripts):
        folder = tmp_path / "bin with space"
        folder.mkdir()
        for name, body in scripts.items():
            script = folder / name.replace("_", ".")
            script.write_text(f"#!/bin/sh\n{body}\n")
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return replace_path


def test_python_is_found_behind_one_that_does_not_run(path_with, tmp_path):
    folder = path_with(python3_11="exit 127", python3=f'exec "{sys._base_executable}" "$@"')
    assert machine.find_python("3.11", tmp_path / ".venv") == str(folder / "python3")


@pytest.mark.parametrize(
    ("scripts", "message"),
    [
        ({}, r"Python 3\.11 is needed and not on PATH: install python3\.11"),
        ({"python3": "echo 3.9"}, r"not on PATH \(found 3\.9\)"),
        (
            {"python3_11": 'case "$2" in *ensurepip*) exit 1;; *) echo 3.11;; esac'},
            r"install python3\.11-venv",
        ),
    ],
)
def test_wrong_python(path_with, tmp_path, scripts, message):
    path_with(**scripts)
    with pytest.raises(SetupError, match=message):
        machine.find_python("3.11", tmp_path / ".venv")


def test_the_environment_is_not_made_with_its_own_python(path_with, tmp_path):
    path_with(python3="echo 3.11").rename(tmp_path / "bin")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SetupError, match="not on PATH"):
        patch.setenv("PATH", str(tmp_path / "bin"))
        machine.find_python("3.11", tmp_path)


def test_missing_compiler(path_with, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    path_with()
    with pytest.raises(SetupError, match=r"no C\+\+ compiler: 'c\+\+' is not on PATH; install g\+\+"):
        machine.check_compiler(sys.executable)


def test_compiler_without_headers(path_with, monkeypatch):
    monkeypatch.setenv("CXX", "cxx")
    path_with(cxx="while read -r line; do case $line in *Python.h*) exit 1;; esac; done")
    with pytest.raises(SetupError, match="no Python.h"):
        machine.check_compiler(sys.executable)


def test_compiler_too_old(path_with, monkeypatch):
    monkeypatch.setenv("CXX", "cxx")
    path_with(cxx="exit 1")
    with pytest.raises(SetupError, match=r"does not compile C\+\+17"):
        machine.check_compiler(sys.executable)


def test_this_machine_compiles():
    machine.check_compiler(sys.executable)


@pytest.mark.parametrize(("free_gib", "enough"), [(7.9, False), (8.1, True)])
def test_disk_space_is_added_up_on_one_disk(tmp_path, monkeypatch, path_with, free_gib, enough):
    path_with()  # no nvcc, no nvidia-smi: the CPU environment
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free_gib * machine.GIB))
    if enough:
        machine.check_disk(tmp_path / "repo" / ".venv", tmp_path / "cache")
    else:
        with pytest.raises(SetupError, match=r"no disk space: 7\.9 GiB free on the disk of .*, 8 GiB needed"):
            machine.check_disk(tmp_path / "repo" / ".venv", tmp_path / "cache")


def test_a_failed_check_is_one_line_and_leaves_nothing(path_with, tmp_path, capsys):
    path_with()
    assert setup_env.main(["--venv", str(tmp_path / ".venv")]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: Python 3.11 is needed") and printed.err.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("draft")
    with pytest.raises(SetupError, match="neither empty nor an environment"):
        setup_env.create_venv(sys.executable, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "draft"
