"""A user's own data from the export to scores and back to the tool, as docs/own_data.md and docs/predict.md type it."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from ruamel.yaml import YAML

from pipeline.artifacts import paths
from pipeline.datasets import exports
from pipeline.datasets import own as data
from pipeline.inference import masks
from tests.datasets import tools

pytestmark = pytest.mark.slow

DOCUMENT = paths.ROOT / "docs" / "own_data.md"
# What the document types, one after the other in one process; of a few images, with the profile of a few iterations.
TYPED = """
import importlib, shlex, sys
from pipeline.declaration import experiments
for line in sys.argv[1:]:
    print("$", line, flush=True)
    sys.argv = shlex.split(line)
    importlib.import_module(sys.argv[0]).main()
"""
GRAPH = """
import sys
from dvc.repo import Repo
from dvc.dependency import ParamsDependency
repo = Repo(".")
for stage in {stage for target in sys.argv[1:] for stage in repo.stage.collect(target, with_deps=True)}:
    print(stage.cmd)
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            print(dep.def_path, *dep.params)
"""
CHAIN = (
    "stages.download {0}",
    "stages.split own --dataset {0}",
    "stages.recipes {0}",
    "stages.pretrain r50 --dataset {0}",
    "stages.train {0}_contrastmask",
    "stages.evaluate {0}_contrastmask",
    "commands.scores {0}_contrastmask",
)
EXPORTS = (
    "cvat",
    "label_studio",
    "roboflow",
    "labelme",
    "fiftyone",
)  # the same objects, so one training is that of all
SMOKE = {"batch_size": 2, "images_per_gpu": 2, "log_interval": 1, "warmup_iterations": 1}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A copy of the code in which a drawn example and an export with 1,100 classes went from files to scores, and those
    of five tools to a model, to its predictions and to completed files.
    """
    root = tmp_path_factory.mktemp("own")
    for name in ("pipeline", "stages", "commands", ".dvc"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(paths.ROOT / name, root)
    declared, yaml = root / "pipeline/experiments/profiles.yaml", YAML()
    content = yaml.load(declared)
    content["profiles"]["smoke"]["training"].update(SMOKE)
    content["profiles"]["smoke"]["schedules"]["1x"]["iterations"] = 4
    yaml.dump(content, declared)
    tools.photographs(root / "parts")
    for name, content in zip(("parts", "parts_val"), tools.lvis_in_use(), strict=True):
        tools.write(content, root / f"{name}.json")
    for name in (*EXPORTS, "lvis"):
        tools.write(tools.TOOLS[name](), root / f"{name}.json")
    environment = os.environ | {"CONTRASTMASK_HOME": str(root), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    example, own = re.findall(r"^python -m (commands\.own\S* .*)$", DOCUMENT.read_text(), re.MULTILINE)[:2]
    lines = [
        f"{example} --count 24",
        f"{own} --profile smoke",
        "commands.own many --images parts --annotations parts.json --val-annotations parts_val.json --profile smoke",
        "commands.select products many",
        *(line.format(name) for name in ("products", "many") for line in CHAIN),
        *(f"commands.own {name} --images parts --annotations {name}.json --profile smoke" for name in EXPORTS),
        *(line.format(name) for name in EXPORTS for line in CHAIN[: 5 if name == "cvat" else 2]),
        "commands.predict cvat_contrastmask parts --out found --score 0 --form rle",
        *(
            f"commands.complete cvat_contrastmask --images parts --annotations {name}.json --out {name}_done.json"
            for name in (*EXPORTS, "lvis")
        ),
    ]
    said = python("-c", TYPED, *lines)
    return root, python, dict(part.partition("\n")[::2] for part in re.split(r"^\$ ", said, flags=re.MULTILINE)[1:])


def test_what_is_printed_next_is_what_the_graph_knows(ran):
    root, python, said = ran
    printed = next(text for line, text in said.items() if line.startswith("commands.own products"))
    command = re.search(r"&& dvc repro (.*)", printed)[1].split()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    planned = python("-c", GRAPH, *command)
    for name in ("mask_rcnn", "contrastmask"):
        assert f"python -m stages.evaluate products_{name}" in planned
    assert "python -m stages.download products" in planned
    assert "pipeline/experiments/own_products.yaml datasets.products" in planned, "an entry that changes is noticed"
    assert (root / "reports/products/own_data.png").stat().st_size > 10_000


def test_an_object_without_mask_of_a_base_class_trains_its_box(ran):
    root, *_ = ran
    train = json.loads((root / "data/products/splits/own/train.json").read_text())
    names = {category["id"]: category["name"] for category in train["categories"]}
    flags = {
        name: {a["novel"] for a in train["annotations"] if names[a["category_id"]] == name} for name in names.values()
    }
    assert flags["toy_car"] == {True, False} and flags["beaker"] == {False} and flags["vase"] == {True}


def test_scores_are_told_by_group_and_class_with_what_is_undefined(ran):
    root, _, said = ran
    text = said["commands.scores products_contrastmask"]
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("|")}
    assert {"novel (mean)", "base (mean)", "all (mean)", "beaker", "vase"} <= rows.keys()
    results = json.loads((root / "results/products/products_contrastmask.json").read_text())["per_seed"][0]
    undefined = results["undefined"]["segm"]
    assert {"toy_truck", "toy_horse"} <= undefined.keys() and not {"beaker", "toy_car"} & undefined.keys()
    assert all(rows[name][2].strip() == "–" for name in undefined)
    assert re.search(r"No mask AP \(–\): validation objects have no mask: .*toy_horse", text)
    assert rows["beaker"][2].strip() != "–" and rows["all (mean)"][3].strip() != "–"


def test_annotations_that_changed_are_declared_anew_as_printed(ran):
    root, python, _ = ran
    path, entry = root / "parts.json", root / "pipeline/experiments/own_many.yaml"
    before, declared = path.read_text(), entry.read_text()
    path.write_text(before + " ")
    script = """if True:
        from pipeline.datasets import own, prepare
        from pipeline.declaration import experiments
        from pipeline.errors import ExperimentError
        def fill():
            source = prepare._kind("many", experiments.load().dataset("many"))[1]
            own.fill(source, __import__("pathlib").Path("filled/images"), None, None)
        try:
            fill()
        except ExperimentError as error:
            import re, shlex, sys
            command = re.search("run `python -m (.*)`", str(error))[1]
            sys.argv = shlex.split(command)
            __import__("commands.own").own.main()
            fill()
            print("mended by", command)
    """
    assert "mended by commands.own many --force" in python("-c", script)
    assert entry.read_text() != declared and entry.read_text().count("sha256") == declared.count("sha256")


def test_more_than_a_thousand_classes_are_trained_and_scored(ran):
    root, _, said = ran
    labels = YAML(typ="safe").load(root / "pipeline/declaration/label_sets/many.yaml")
    assert len(labels["classes"]) == 1100 and labels["groups"]["base"] == ["bolt", "washer"]
    recipe = json.loads((root / "recipes/many/content/training/many_contrastmask.json").read_text())
    assert recipe["configuration"]["model"]["roi_head"]["bbox_head"]["num_classes"] == 1100
    text = said["commands.scores many_contrastmask"]
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 + 3 + 1100
    declared = next(value for line, value in said.items() if line.startswith("commands.own many"))
    assert "and 1040 classes with fewer objects" in declared


def test_one_training_is_that_of_the_exports_of_all_tools(ran):
    root, *_ = ran
    trained = []
    for name in EXPORTS:
        content = json.loads((root / f"data/{name}/splits/own/train.json").read_text())
        files = {image["id"]: image["file_name"] for image in content["images"]}
        classes = {category["id"]: category["name"] for category in content["categories"]}
        size = {"height": tools.SIDE[1], "width": tools.SIDE[0]}
        trained.append(
            {
                (files[a["image_id"]], classes[a["category_id"]], tuple(a["bbox"])): (
                    a["novel"] or masks.decoded(a["segmentation"], **size).sum()
                )
                for a in content["annotations"]
            }
        )
    for name, objects in zip(EXPORTS, trained, strict=True):
        assert objects.keys() == trained[0].keys(), name
        assert {key for key, found in objects.items() if found is True} == {
            key for key, found in trained[0].items() if found is True
        }
        # CVAT's brush gives whole pixels, the others polygons.
        assert all(abs(int(found) - int(trained[1][key])) <= 0.2 * int(found) for key, found in objects.items()), name


def read_again(root, path):
    """A written file as pycocotools reads it; `commands.own` reads the same boxes and masks."""
    api = COCO(str(path))
    options = {"images": str(root / "parts"), "annotations": {"path": str(path)}, "val_fraction": 0.34, "seed": 0}
    gathered = data.gather(options)
    ours = {each["id"]: each for side in gathered.subsets.values() for each in side["annotations"]}
    assert ours.keys() == api.anns.keys()
    for number, each in ours.items():
        assert np.abs(np.subtract(each["bbox"], api.anns[number]["bbox"])).max() <= 0.5
        if api.anns[number]["segmentation"]:
            shown = masks.decoded(each["segmentation"], tools.SIDE[1], tools.SIDE[0])
            assert (shown == api.annToMask(api.anns[number])).all()
        else:
            assert "segmentation" not in each
    return api


@pytest.mark.parametrize("tool", [*EXPORTS, "lvis"])
def test_a_completed_export_is_read_again(ran, tool):
    root, *_ = ran
    given = json.loads((root / f"{tool}.json").read_text())
    api = read_again(root, root / f"{tool}_done.json")
    assert {k: v for k, v in api.dataset.items() if k != "annotations"} == {
        k: v for k, v in given.items() if k != "annotations"
    }
    added = 0
    for before in given["annotations"]:
        after = api.anns[before["id"]]
        had = bool(before.get("segmentation")) and not exports.is_its_box(before)
        added += "source" in after
        assert after == before if had or "source" not in after else after["bbox"] == before["bbox"]
    assert added >= 3


def test_predictions_are_read_again(ran):
    root, *_ = ran
    api = read_again(root, root / "found/annotations.json")
    results = json.loads((root / "found/results.json").read_text())
    assert len(results) == len(api.anns) > 10
    for record, annotation in zip(results, api.dataset["annotations"], strict=True):
        assert np.abs(np.subtract(record["bbox"], annotation["bbox"])).max() <= 0.5
        assert (masks.decoded(record["segmentation"], tools.SIDE[1], tools.SIDE[0]) == api.annToMask(annotation)).all()
