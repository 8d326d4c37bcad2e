"""A method of label maps runs on drawn scenes, from the declaration to a table, a figure and the page."""

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

TOY = Path(__file__).parent / "toy_maps"
STAGES = """
import importlib, sys
from pipeline.declaration import experiments
experiments.select(["toy"])
for line in sys.argv[1:]:
    sys.argv = line.split()
    importlib.import_module(f"stages.{sys.argv[0]}").main()
"""
RUN = (
    "download",
    "split s1 semantic",
    "recipes",
    "pretrain colours_r50",
    "train colours",
    "evaluate colours",
    "tables toy",
    "figures toy_gap",
    "figures toy_categories",
    "report",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the code with the toy's folders and declaration, after its stages."""
    root = tmp_path_factory.mktemp("toy")
    for name in ("pipeline", "stages"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    params = (paths.ROOT / "params.yaml").read_text()
    assert "dataset: generated" in params
    (root / "params.yaml").write_text(params.replace("dataset: generated", "dataset: toy_scenes"))
    shutil.copytree(TOY / "methods", root / "pipeline" / "methods", dirs_exist_ok=True)
    declared = root / "pipeline" / "experiments"
    shutil.copy(TOY / "declaration.yaml", declared / "toy.yaml")
    with (declared / "datasets.yaml").open("a") as file:
        file.write(
            "  toy_scenes: {kind: drawn_maps, profile: smoke_maps, label_set: stuff_and_things, train: train,\n"
            "               validation: test, version: 1, seed: 0, train_images: 16, val_images: 8, image_size: 96}\n"
        )
    environment = os.environ | {"CONTRASTMASK_HOME": str(root), "PYTHONPATH": str(root)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", STAGES, *RUN]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def test_it_is_scored_by_group_and_class(root):
    content = json.loads((root / "results/toy_scenes/colours.json").read_text())
    assert content["task"] == "semantic"
    scores = {(row["group"], row["metric"]): row["value"] for row in content["per_seed"][0]["scores"]}
    assert set(scores) == {(group, "mIoU") for group in ("novel", "base", "all")} and scores["all", "mIoU"] > 0
    assert {row["category"] for row in content["per_seed"][0]["per_category"]} >= {"blue waves", "disc"}


def test_it_stands_in_a_table_and_on_the_page(root):
    folder = root / "reports/toy_scenes"
    with (folder / "tables/toy.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["state"] == "done" and row["mIoU_published"] == ""
    assert "mIoU (%) on the novel categories of toy_scenes" in (folder / "tables/toy.md").read_text()
    assert "## mIoU by category group" in (folder / "README.md").read_text()
    bars = (folder / "figures/toy_categories.svg").read_text()
    assert "base categories (trained with masks) and novel ones (image-level labels only)" in bars


def test_dvc_makes_no_annotations_of_objects_for_it(root):
    selection = YAML(typ="safe").load(root / "pipeline/selection.yaml")["selected"]
    assert selection["directions"] == {} and selection["elsewhere"]["directions"] == {}
    assert list(selection["splits"]) == ["s1_semantic"] and list(selection["runs"]) == ["colours"]


def test_training_read_no_novel_pixel(root):
    """The folder that stage train depends on, images apart: the split alone."""
    index = json.loads((root / "data/toy_scenes/splits/s1.semantic/train.json").read_text())
    assert {file.name for file in (root / "data/toy_scenes/splits/s1.semantic").iterdir()} == {
        "train.json",
        "train.pack",
    }
    assert len(index["novel"]) == 6 and all(set(image["base"]) <= set(index["base"]) for image in index["images"])
