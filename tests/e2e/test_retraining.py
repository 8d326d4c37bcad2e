"""Images are labelled by trained runs, others are trained on the labels, and their rows of Table 3 are filled."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline.artifacts import paths
from pipeline.datasets.label_maps.packs import Pack

pytestmark = pytest.mark.slow

STAGES = """
import importlib, sys
from pipeline.declaration import experiments
experiments.select(["simformer3"])
for line in sys.argv[1:]:
    sys.argv = line.split()
    importlib.import_module(f"stages.{sys.argv[0]}").main()
"""
SOURCES = {"simformer_s5": "simformer_retrained_s5", "retab_s5": "simformer_retab_s5"}
RUN = (
    "download",
    "split s5 semantic",
    "recipes",
    "pretrain simformer_r50",
    "pretrain retab_r50",
    *(
        f"{stage} {run}"
        for source, again in SOURCES.items()
        for stage, run in (("train", source), ("label", source), ("train", again), ("evaluate", again))
    ),
    "tables simformer3",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the code with a few scenes and trainings of three steps, after its stages."""
    root = tmp_path_factory.mktemp("again")
    for name in ("pipeline", "stages"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    changes = (
        ("params.yaml", r"(?m)^dataset: \w+", "dataset: scenes"),
        ("pipeline/experiments/datasets.yaml", "train_images: 800, val_images: 200, image_size: 64", "{}"),
        ("pipeline/experiments/profiles.yaml", r"1x: \{iterations: 3000,", "1x: {iterations: 3,"),
    )
    for name, pattern, text in changes:
        content = (paths.ROOT / name).read_text()
        text = text.replace("{}", "train_images: 12, val_images: 4, image_size: 64")
        changed, count = re.subn(pattern, text, content)
        assert count, name
        (root / name).write_text(changed)
    environment = os.environ | {"CONTRASTMASK_HOME": str(root), "PYTHONPATH": str(root)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", STAGES, *RUN]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.parametrize("source", SOURCES)
def test_labels_are_of_every_training_image_and_keep_base_masks(root, source):
    folder = root / "data/scenes/labels" / source
    assert {file.name for file in folder.iterdir()} == {"seed0.json", "seed0.pack"}
    labels, hidden = Pack(folder / "seed0.json"), Pack(root / "data/scenes/splits/s5.semantic/train.json")
    assert [image["file_name"] for image in labels.images] == [image["file_name"] for image in hidden.images]
    for position, image in enumerate(hidden.images):
        base, found = hidden.read(position), labels.read(position)
        assert (found[base != 255] == base[base != 255]).all()
        assert set(np.unique(found[base == 255]).tolist()) <= {*image["novel"], 255}
    assert not list((root / "scratch").glob("*.labels/predictions.jsonl")), "nothing is left of what was saved"
    status = json.loads((root / f"scratch/status/scenes/label@{source}.json").read_text())
    assert status["state"] == "labelled"


def test_rows_of_the_table_are_filled(root):
    with (root / "reports/scenes/tables/simformer3.csv").open(newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file) if row["direction"] == "s5"}
    for label in ("SimFormer*", "RETAB* (our adaptation)"):
        assert rows[label]["state"] == "done" and float(rows[label]["mIoU"]) >= 0 and rows[label]["mIoU_published"]
