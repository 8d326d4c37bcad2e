"""A task with another metric is added as one folder, with a method and a run row, and nothing else changes."""

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

TOY = Path(__file__).parent / "toy_task"
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
    "split nonvoc2voc label_maps",
    "train pixels",
    "evaluate pixels",
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
    (root / "params.yaml").write_text(params.replace("dataset: generated", "dataset: toy_images"))
    for kind in ("tasks", "methods"):
        shutil.copytree(TOY / kind, root / "pipeline" / kind, dirs_exist_ok=True)
    declared = root / "pipeline" / "experiments"
    shutil.copy(TOY / "declaration.yaml", declared / "toy.yaml")
    with (declared / "datasets.yaml").open("a") as file:
        file.write((TOY / "dataset.yaml").read_text())
    environment = os.environ | {"CONTRASTMASK_HOME": str(root), "PYTHONPATH": str(root)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", STAGES, *RUN]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def test_it_is_scored_in_its_own_metrics(root):
    content = json.loads((root / "results/toy_images/pixels.json").read_text())
    assert content["task"] == "label_maps"
    scores = {(row["group"], row["metric"]): row["value"] for row in content["per_seed"][0]["scores"]}
    assert set(scores) == {(group, metric) for group in ("novel", "base", "all") for metric in ("mIoU", "accuracy")}
    assert scores["novel", "mIoU"] == 0 < scores["base", "mIoU"], "no novel pixel had a label to train with"


def test_it_stands_in_a_table_by_its_labels(root):
    folder = root / "reports/toy_images/tables"
    with (folder / "toy.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["state"] == "done" and float(row["mIoU"]) == 0 and row["mIoU_published"] == ""
    markdown, tex = (folder / "toy.md").read_text(), (folder / "toy.tex").read_text()
    assert "Labels of pixels. mIoU (%) on the novel categories of toy_images" in markdown
    assert "| mIoU " in markdown and "| accuracy" in markdown and "AP" not in markdown and r"acc.\ " in tex


def test_it_is_drawn_in_its_colour_with_its_words(root):
    gap = (root / "reports/toy_images/figures/toy_gap.svg").read_text()
    bars = (root / "reports/toy_images/figures/toy_categories.svg").read_text()
    assert "mIoU (%)" in gap and "IoU (%)" in bars and "#123456" in bars
    assert "base categories (trained with label maps) and novel ones (image labels only)" in bars


def test_the_page_and_mlflow_call_it_by_its_name(root):
    page = (root / "reports/toy_images/README.md").read_text()
    assert "## mIoU by category group" in page and "| mIoU, novel" in page
    (record,) = (json.loads(path.read_text()) for path in (root / "scratch/tracking").rglob("*.json"))
    assert set(record["scores"]["metrics"]) >= {"novel/mIoU", "base/accuracy", "all/mIoU"}


def test_it_is_evaluated_in_a_process_of_its_own(root):
    """As DVC does it, where no training has told MMDetection of the method's types."""
    environment = os.environ | {"CONTRASTMASK_HOME": str(root), "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "stages.evaluate", "pixels"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def test_dvc_splits_for_it(root):
    selection = YAML(typ="safe").load(root / "pipeline/selection.yaml")["selected"]
    assert selection["splits"]["nonvoc2voc_label_maps"]["split"] == "nonvoc2voc.label_maps"
    assert selection["runs"]["pixels"]["split"] == "nonvoc2voc.label_maps"
    assert (root / "data/toy_images/splits/nonvoc2voc.label_maps/train.json").is_file()
    assert not (root / "data/toy_images/splits/nonvoc2voc").exists()
