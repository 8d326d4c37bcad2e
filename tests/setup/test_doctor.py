"""`make doctor` finds what is broken, names the cure, and goes on to the next check."""

import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pipeline import doctor
from pipeline.artifacts import paths
from tools.pins import ROOT


def examine(monkeypatch, *subjects):
    monkeypatch.setattr(doctor, "CHECKS", {subject: doctor.CHECKS[subject] for subject in subjects})
    return doctor.examine()


def test_operators_of_this_environment_are_right(monkeypatch):
    (finding,) = examine(monkeypatch, "operators on CPU")
    assert finding.status == doctor.OK


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_operators_on_the_gpu_are_right(monkeypatch):
    (finding,) = examine(monkeypatch, "operators on GPU")
    assert finding.status == doctor.OK


def test_wrong_operators_are_found(monkeypatch):
    examine(monkeypatch, "operators on CPU")  # mmcv imports only after what doctor prepares
    monkeypatch.setattr("mmcv.ops.roi_align", lambda ramp, *rest: ramp.sum() * 0)
    (finding,) = examine(monkeypatch, "operators on CPU")
    assert finding.status == doctor.BROKEN
    assert "roi_align returns 0.0000" in finding.found and "make setup" in finding.remedy


def test_a_missing_package_does_not_hide_the_next_check(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmdet", None)
    mmdet, python = examine(monkeypatch, "mmdet", "Python")
    assert (mmdet.status, python.status) == (doctor.BROKEN, doctor.OK)
    assert "does not import" in mmdet.found and "-> run `make setup`" in str(mmdet)


def test_full_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30))
    (finding,) = examine(monkeypatch, "disk")
    assert finding.status == doctor.BROKEN and "1 GiB free" in finding.found


def test_unreachable_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (finding,) = examine(monkeypatch, "MLflow")
    assert finding.status == doctor.BROKEN and "does not answer" in finding.found


@pytest.mark.parametrize(
    ("params", "status", "found"),
    [
        ("dataset: generated\n", doctor.NOTE, "generated (params.yaml) is not here yet"),
        ("dataset: coco2071\n", doctor.BROKEN, "coco2071"),
        ("seeds: [0]\n", doctor.BROKEN, "dataset"),
    ],
)
def test_dataset(monkeypatch, tmp_path, params, status, found):
    (tmp_path / "params.yaml").write_text(params)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    monkeypatch.setattr(paths, "manifest", lambda dataset: tmp_path / "manifest.json")
    (finding,) = examine(monkeypatch, "dataset")
    assert finding.status == status and found in finding.found


def test_declarations(monkeypatch, tmp_path):
    (finding,) = examine(monkeypatch, "declarations")
    assert finding.status == doctor.OK
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    (tmp_path / "machine.yaml").write_text("proceses: 2\n")
    (finding,) = examine(monkeypatch, "declarations")
    assert finding.status == doctor.BROKEN
    assert finding.found.startswith("machine.yaml: proceses: unknown key; ") and "mean 'processes'?" in finding.found


def test_runs_where_nothing_is_installed():
    done = subprocess.run(
        [sys._base_executable, "-S", "-m", "commands.doctor"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and not done.stderr
    assert all(f"\n{subject} " in f"\n{done.stdout}" for subject in doctor.CHECKS)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A small repository in the place of this one; commands that doctor prints run in it."""
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    (tmp_path / "Makefile").write_text("all:\n\techo\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def follow(finding, folder):
    """Run the first command of a remedy, which has to mend what was found."""
    command = re.search("`([^`]+)`", finding.remedy)[1]
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def committed(copy):
    git(copy, "init", "-q")
    git(copy, "add", "-A")
    git(copy, "commit", "-qm", "x")


def test_a_copy_without_git_becomes_one_that_dvc_opens(monkeypatch, copy):
    finding, dvc = examine(monkeypatch, "git", "DVC")
    assert finding.status == doctor.BROKEN and "no .git" in finding.found and "make setup" not in str(dvc)
    follow(finding, copy)
    assert [finding.status for finding in examine(monkeypatch, "git", "DVC")] == [doctor.OK, doctor.OK]


@pytest.mark.parametrize("hidden", [False, True])
def test_marks_of_a_merge(monkeypatch, copy, hidden):
    committed(copy)
    if hidden:  # as after every launch
        git(copy, "update-index", "--skip-worktree", "dvc.lock")
    (copy / "dvc.lock").write_text("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> other\n")
    (finding,) = examine(monkeypatch, "git")
    assert finding.status == doctor.BROKEN and "dvc.lock holds the marks of a merge" in finding.found
    follow(finding, copy)
    assert examine(monkeypatch, "git")[0].status == doctor.OK


def test_line_ends_of_windows(monkeypatch, copy):
    committed(copy)
    (copy / "Makefile").write_bytes(b"all:\r\n\techo\r\n")
    (finding,) = examine(monkeypatch, "git")
    assert finding.status == doctor.BROKEN and "line ends of Windows: Makefile" in finding.found
    follow(finding, copy)
    assert examine(monkeypatch, "git")[0].status == doctor.OK


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path / "file" / "home"))
    (finding,) = examine(monkeypatch, "disk")
    assert finding.status == doctor.BROKEN and "cannot be written" in finding.found
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path / "other"))
    assert "cannot be written" not in examine(monkeypatch, "disk")[0].found


def test_no_inodes(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**40))
    monkeypatch.setattr(doctor.os, "statvfs", lambda folder: SimpleNamespace(f_files=10**6, f_favail=12))
    (finding,) = examine(monkeypatch, "disk")
    assert finding.status == doctor.BROKEN and "only 12 more files" in finding.found


def test_no_password_in_any_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:Zq9x/a@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "Zq9xToken")
    (finding,) = examine(monkeypatch, "MLflow")
    assert finding.status == doctor.BROKEN and "Zq9x" not in str(finding)
    assert "Zq9x" not in str(doctor.Finding("x", doctor.OK, "http://me:Zq9x@h and Zq9xToken"))
