"""A user's own label maps from files to scores and predicted pictures, as docs/own_maps.md types it."""

import json
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.artifacts import paths
from pipeline.datasets.label_maps import example
from pipeline.datasets.label_maps.packs import Pack
from pipeline.tasks.semantic import stored
from tests.inference.looking import look
from tests.reporting.test_page import CHROMIUM

from .test_own import GRAPH, TYPED

pytestmark = pytest.mark.slow

DOCUMENT = (paths.ROOT / "docs" / "own_maps.md").read_text()
CHAIN = (
    "stages.download places",
    "stages.split own semantic --dataset places",
    "stages.recipes places",
    "stages.pretrain simformer_r50 --dataset places",
    "stages.train places_simformer",
    "stages.evaluate places_simformer",
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A copy of the code in which the lines of the document were typed, with a few images and steps."""
    root = tmp_path_factory.mktemp("own_maps")
    for name in ("pipeline", "stages", "commands", ".dvc"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(paths.ROOT / name, root)
    declared, yaml = root / "pipeline/experiments/profiles.yaml", YAML()
    content = yaml.load(declared)
    profile = content["profiles"]["embedded_own_maps"]
    profile["schedules"]["1x"]["iterations"] = 2
    profile["training"] = dict(profile["training"]) | {"batch_size": 4, "images_per_gpu": 4, "log_interval": 1}
    yaml.dump(content, declared)
    environment = os.environ | {"CONTRASTMASK_HOME": str(root), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def python(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == code, done.stderr[-3000:]
        return done.stdout if code == 0 else done.stderr

    drawn, own, scores, predict, hidden, again = re.findall(r"^python -m (commands\.(?!select).*)$", DOCUMENT, re.M)
    size = " --profile embedded_own_maps"
    lines = [
        f"{drawn} --count 24",
        own + size,
        hidden + size,
        "commands.select places",
        *CHAIN,
        scores,
        predict,
        f"{predict} --classes disc star",
        again,
    ]
    said = python("-c", TYPED, *lines)
    return root, python, dict(part.partition("\n")[::2] for part in re.split(r"^\$ ", said, flags=re.M)[1:])


def started(said, beginning):
    return next(text for line, text in said.items() if line.startswith(beginning))


def test_what_is_printed_next_is_what_the_document_and_the_graph_know(ran):
    root, python, said = ran
    typed = re.search(r"^python -m commands.select .*$", DOCUMENT, re.M)[0]
    assert typed in started(said, "commands.own places --images")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    planned = python("-c", GRAPH, *typed.partition("dvc repro ")[2].split())
    assert {"python -m stages.evaluate places_basic", "python -m stages.download places"} <= set(planned.splitlines())
    assert "pipeline/experiments/own_places.yaml datasets.places" in planned, "an entry that changes is noticed"
    assert (root / "reports/places/own_data.png").stat().st_size > 10_000
    assert {path.suffix for path in (root / "data/places/annotations").iterdir()} == {".json", ".pack"}


def test_the_table_tells_base_and_novel(ran):
    said = ran[2]
    for line, novel in (("commands.own places --images", example.NEW), ("commands.own hidden", ("blue waves", "disc"))):
        rows = [row.split("|")[1:4] for row in started(said, line).splitlines() if row.startswith("|")][2:]
        assert {name.strip() for name, _, group in rows if group.strip() == "novel"} == set(novel)
    assert "images have labels and no map" in started(said, "commands.own places --images")
    assert "places" in started(said, "commands.own places --force")


def test_scores_are_of_classes_with_pixels(ran):
    text = started(ran[2], "commands.scores")
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in text.splitlines() if line[:1] == "|"}
    assert rows["Class"] == "IoU" and all(rows[name] == "–" for name in example.NEW) and rows["base (mean)"] != "–"


def test_predicted_maps_are_those_of_the_evaluation(ran):
    root = ran[0]
    declared = YAML(typ="safe").load(root / "pipeline/declaration/label_sets/places.yaml")
    ids = np.array([each["id"] for each in declared["classes"]], np.uint8)
    content = json.loads((root / "found/classes.json").read_text())
    wanted = [each["value"] for each in content["classes"] if each["name"] in ("disc", "star")]
    header = (root / "found/predictions.jsonl").read_text().splitlines()
    assert len(header) == 1 + 24 == 1 + len(content["images"]), "predicted once, shown twice"
    evaluated = dict(stored.read(root / "predictions/places/places_simformer/seed0.json"))
    assert len(evaluated) == len(Pack(root / "data/places/annotations/maps_val.json")) > 2
    for name, label_map in evaluated.items():
        stem = name.removesuffix(".JPG")
        saved = cv2.imread(str(root / f"found/maps/{stem}.png"), cv2.IMREAD_UNCHANGED)
        expected = ids[label_map]
        assert (saved == np.where(np.isin(expected, wanted), expected, content["none"])).all()
        with Image.open(root / f"found/colours/{stem}.png") as palette:
            assert palette.mode == "P" and (np.asarray(palette) == saved).all()
        found = cv2.imread(str(root / f"found/overlays/{stem}.jpg"))
        assert found.shape[:2] == saved.shape


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_is_looked_through_by_keys(ran):
    root = ran[0]
    found = look(root / "found/index.html", 1000)
    assert found["places"] == ["1 of 24", "2 of 24", "3 of 24", "2 of 24", "24 of 24"]
    assert found["loaded"] and not found["blocked"]


def test_complete_says_what_label_maps_are_for(ran):
    root, python, _ = ran
    boxes = {
        "images": [{"id": 1, "file_name": "images/north/IMG_0001.JPG", "width": 9, "height": 9}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "disc"}],
    }
    (root / "boxes.json").write_text(json.dumps(boxes))
    asked = ("places_simformer", "--images", "field", "--annotations", "boxes.json", "--out", "done.json")
    said = python("-m", "commands.complete", *asked, code=1)
    line = next(line for line in said.splitlines() if line.startswith("error: "))
    assert "labels pixels" in line
    command = re.search("`python (-m commands.predict .*) IMAGES --out DIR`", line)[1].split()
    python(*command, "field/images/north/IMG_0001.JPG", "--out", "one")
    assert len(list((root / "one/maps").iterdir())) == 1
    file = "runs/places/places_simformer/seed0/checkpoint.pth"
    python("-m", "commands.predict", file, "field/images/north/IMG_0001.JPG", "--out", "file")
    assert (root / "file/maps/IMG_0001.png").read_bytes() == (root / "one/maps/IMG_0001.png").read_bytes()
    said = python(*command, "field/images", "--out", "two", "--score", "0.5", code=1)
    assert "labels every pixel, which has no score; leave out --score" in said and not (root / "two").exists()
    said = python(*command, "field/images/south", "--out", "found", code=1)
    assert "found: holds predictions of other images; name another folder" in said
