"""Six classes of a user's own: a label set in a file, an entry of a data set and rows of runs; nothing else changes."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.artifacts import paths

pytestmark = pytest.mark.slow

TOY = Path(__file__).parent / "toy_labels"
STAGES = """
import importlib, sys
from pipeline.declaration import experiments
experiments.select(["table2", "shapes"])
for line in sys.argv[1:]:
    sys.argv = line.split()
    importlib.import_module(f"stages.{sys.argv[0]}").main()
"""
RUN = (
    "download",
    "split pointed2round",
    "recipes",
    "pretrain r50",
    "train shapes_ours",
    "evaluate shapes_ours",
    "tables shapes",
    "figures shapes_category_ap",
    "report",
)
NAMES = ["ring", "dart", "star", "moon", "cog", "horseshoe"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the code with the toy's label set and declaration, after its stages."""
    root = tmp_path_factory.mktemp("toy_labels")
    for name in ("pipeline", "stages"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    params = (paths.ROOT / "params.yaml").read_text()
    assert "dataset: generated" in params
    (root / "params.yaml").write_text(params.replace("dataset: generated", "dataset: shapes"))
    shutil.copy(TOY / "shapes.yaml", root / "pipeline" / "declaration" / "label_sets")
    declared = root / "pipeline" / "experiments"
    shutil.copy(TOY / "declaration.yaml", declared / "shapes.yaml")
    with (declared / "datasets.yaml").open("a") as file:
        file.write((TOY / "dataset.yaml").read_text())
    environment = os.environ | {"CONTRASTMASK_HOME": str(root), "PYTHONPATH": str(root)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", STAGES, *RUN]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def test_what_its_directions_do_not_allow_is_not_made(root):
    selection = YAML(typ="safe").load(root / "pipeline/selection.yaml")["selected"]
    assert selection["chosen"] == ["table2", "shapes"] and list(selection["tables"]) == ["shapes"]
    assert list(selection["directions"]) == ["pointed2round"] and list(selection["runs"]) == ["shapes_ours"]
    assert selection["free"] == {} and list(selection["figures"]) == ["shapes_category_ap"]


def test_its_classes_reach_annotations_split_and_model(root):
    manifest = json.loads((root / "data/shapes/manifest.json").read_text())
    assert manifest["categories"] == dict(zip(NAMES, (2, 3, 5, 8, 13, 21), strict=True))
    assert set(manifest["subsets"]) == {"learn", "judge"} and (root / "data/shapes/images/learn").is_dir()
    assert all(set(subset["instances"]) == {"pointed", "round"} for subset in manifest["subsets"].values())
    train = json.loads((root / "data/shapes/splits/pointed2round/train.json").read_text())
    assert [category["name"] for category in train["categories"]] == NAMES
    assert {a["category_id"] for a in train["annotations"] if not a["novel"]} == {3, 5, 13}
    assert not any("segmentation" in a for a in train["annotations"] if a["novel"])
    recipe = json.loads((root / "recipes/shapes/content/training/shapes_ours.json").read_text())
    assert recipe["configuration"]["model"]["roi_head"]["bbox_head"]["num_classes"] == 6


def test_its_classes_are_scored_tabulated_and_drawn(root):
    (seed,) = json.loads((root / "results/shapes/shapes_ours.json").read_text())["per_seed"]
    assert {row["category"] for row in seed["per_category"]} == set(NAMES)
    with (root / "reports/shapes/tables/shapes.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["state"] == "done" and row["dataset"] == "shapes" and row["direction"] == "pointed2round"
    drawn = (root / "reports/shapes/figures/shapes_category_ap.svg").read_text()
    assert all(name in drawn for name in NAMES)
    assert "pointed2round" in (root / "reports/shapes/README.md").read_text()
