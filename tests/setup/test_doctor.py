"""`make doctor` finds what is broken, names the cure, and goes on to the next check."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pipeline import doctor, paths
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
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    (finding,) = examine(monkeypatch, "dataset")
    assert finding.status == status and found in finding.found


def test_runs_where_nothing_is_installed():
    done = subprocess.run([sys._base_executable, "-S", "-m", "stages.doctor"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stderr
    assert all(f"\n{subject} " in f"\n{done.stdout}" for subject in doctor.CHECKS)
