"""A method is added as one folder and a run row, whatever its detector, and nothing else changes."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artifacts import paths

pytestmark = pytest.mark.slow

TOY = Path(__file__).parent / "toy_methods"
STAGES = """
import importlib, sys
from pipeline.declaration import experiments
chosen = experiments.select(["toy"])
assert set(chosen["weights"]) >= {"r50", "fcos_r50"}, chosen["weights"]
for line in sys.argv[1:]:
    sys.argv = line.split()
    importlib.import_module(f"stages.{sys.argv[0]}").main()
"""
RUN = (
    "download",
    "split nonvoc2voc",
    "train noisy",
    "train fcos",
    "evaluate noisy",
    "evaluate fcos",
    "tables toy",
    "figures toy_losses",
)
TINY = "train_images: 8, val_images: 4, image_size: 64}\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the code with the toys' folders and rows, after its stages."""
    root = tmp_path_factory.mktemp("toy")
    for name in ("pipeline", "stages"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    params = (paths.ROOT / "params.yaml").read_text()
    assert "dataset: generated" in params
    (root / "params.yaml").write_text(params.replace("dataset: generated", "dataset: toy_images"))
    profiles = root / "pipeline" / "experiments" / "profiles.yaml"
    profiles.write_text(
        profiles.read_text().replace("1x: {iterations: 20,", "1x: {iterations: 6,")
    )  # so that it is short
    shutil.copytree(TOY / "methods", root / "pipeline" / "methods", dirs_exist_ok=True)
    shutil.copy(TOY / "declaration.yaml", root / "pipeline" / "experiments" / "toy.yaml")
    with (root / "pipeline" / "experiments" / "datasets.yaml").open("a") as file:
        file.write("  toy_images: {kind: generated, profile: smoke, label_set: coco, train: train2017,\n")
        file.write(f"               validation: val2017, version: 1, seed: 0, {TINY}")
    environment = os.environ | {"CONTRASTMASK_HOME": str(root), "PYTHONPATH": str(root)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", STAGES, *RUN]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.parametrize("method", ["noisy", "fcos"])
def test_a_toy_is_short(method):
    lines = [line for file in (TOY / "methods" / method).glob("*.py") for line in file.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) < 60


def test_they_are_scored_and_stand_in_a_table(root):
    with (root / "reports/toy_images/tables/toy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["done", "done"]
    assert all(row["mAP"] != "" for row in rows)


def test_they_are_drawn_in_their_colours(root):
    drawn = (root / "reports/toy_images/figures/toy_losses.svg").read_text()
    assert "#123456" in drawn and "#654321" in drawn
