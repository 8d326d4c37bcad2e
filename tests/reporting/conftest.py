"""A synthetic workspace: two declared runs, made-up results, logs, predictions and four tiny images."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.tasks.instances import TASK
from tests import knob_files
from tests.scores import long_tables

from .studies import DATA

KNOBS = paths.PAPER_KNOBS
REAL = experiments.load()
DECLARATION = {
    "datasets": {
        "toy": REAL.datasets["generated"] | {"profile": "tiny"},
        "coco2017": REAL.datasets["coco2017"] | {"profile": "tiny"},
    },
    "backbones": {"r50": {"label": "ResNet-50"}},
    "profiles": {
        "tiny": REAL.profiles["smoke"] | {"backbones": {"r50": REAL.profiles["smoke"]["backbones"]["r50"]}},
    },
    "runs": {
        name: {
            "method": method,
            "backbone": "r50",
            "schedule": "1x",
            "direction": "voc2nonvoc" if name == "swapped" else "nonvoc2voc",
            "knobs": knobs,
        }
        for name, method, knobs in (
            ("plain", "mask_rcnn", "pipeline/methods/contrastmask/knobs.yaml"),
            ("ours", "contrastmask", "pipeline/methods/contrastmask/knobs.yaml"),
            ("swapped", "contrastmask", "pipeline/methods/contrastmask/knobs.yaml"),
            ("current", "contrastmask", "params.yaml"),
        )
    },
    "tables": {
        "table2": {
            "title": "Parts & pieces_of 100%",
            "published": "contrastmask_table_2",
            "rows": [
                {"label": "Baseline", "runs": ["plain"], "published": "t2_baseline"},
                {"label": "Ours", "runs": ["ours"], "published": "t2_cam_cl"},
            ],
        },
        "table1": {
            "title": "Methods",
            "published": "contrastmask_table_1",
            "rows": [
                {"label": "Mask^X R-CNN", "published": "t1_r50_1x_maskx"},
                {"label": "CPMask", "published": "t1_r50_1x_cpmask"},
                {"label": "Both", "runs": ["ours", "swapped"], "published": "t1_r50_1x_contrastmask"},
                {"label": "Unpublished <b>", "runs": ["current"]},
            ],
        },
    },
    "figures": {
        kind: {
            "kind": kind,
            "tables": ["table2"],
            "title": f"The {kind}",
            "runs": [{"label": "Baseline", "run": "plain"}, {"label": "Ours", "run": "ours"}],
            **further,
        }
        for kind, further in {
            "loss_curves": {},
            "qualitative": {"images": 2, "min_score": 0.5},
            "category_ap": {},
            "base_novel_gap": {},
        }.items()
    },
}
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 24, "name": "zebra"}]  # novel and base of nonvoc2voc
SIZE = 20


class Workspace:
    """Files of stages that a test pretends have run, below a temporary root."""

    def __init__(self, root):
        self.root = root

    def result(self, name="plain", novel=(10.0,), on="toy", **changes):
        """Write a result with these mask APs on novel categories, one a seed; other APs follow from them."""
        content = {
            "run": name,
            "dataset": on,
            "direction": experiments.load().runs[name].direction,
            "method": "any",
            "task": TASK.name,
            "seeds": list(range(len(novel))),
            "per_seed": [{"seed": seed, **self.scores(value)} for seed, value in enumerate(novel)],
            **changes,
        }
        self.write(paths.results(on, name), json.dumps(content))

    @staticmethod
    def scores(novel):
        values = {"novel": novel, "base": 40.0, "all": 30.0}
        groups = {group: {key: value for key in TASK.keys if key != "APs"} for group, value in values.items()}
        return long_tables(groups, {"person": novel, "zebra": 40.0, "toaster": None})

    def log(self, run, text=None):
        losses = [{"loss": 2 / i, "loss_mask": 1 / i, "loss_cls": 1 / i} for i in (1, 2, 3)]
        lines = [{"iter": i, "lr": 0.1, **terms, "acc": 9} for i, terms in enumerate(losses, start=1)]
        self.write(paths.log("toy", run, 0), text or "".join(json.dumps(line) + "\n" for line in lines))

    def validation_set(self, objects):
        """Write an image for each id and a square object for each (category id, area share, iscrowd)."""
        images, annotations = [], []
        for image_id, squares in objects.items():
            name = f"{image_id}.png"
            path = paths.images("toy", "val2017") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((SIZE, SIZE, 3), image_id % 256, np.uint8)).save(path)
            images.append({"id": image_id, "file_name": name, "width": SIZE, "height": SIZE})
            for category, share, crowd in squares:
                side = SIZE * share**0.5
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "iscrowd": crowd,
                        "area": share * SIZE**2,
                        "bbox": [2, 2, side, side],
                        "segmentation": [[2, 2, 2 + side, 2, 2 + side, 2 + side, 2, 2 + side]],
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        self.write(paths.annotations("toy", "val2017"), json.dumps(content))

    def predictions(self, run, image_ids, score=0.9):
        mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
        mask[4:12, 4:12] = 1
        segmentation = {"size": [SIZE, SIZE], "counts": rle.encode(mask)["counts"].decode()}
        records = [
            {
                "image_id": image_id,
                "category_id": category,
                "score": score,
                "bbox": [4, 4, 8, 8],
                "segmentation": segmentation,
            }
            for image_id in image_ids
            for category in (1, 24)
        ]
        self.write(paths.predictions("toy", run, 0), json.dumps(records))

    def everything(self):
        self.validation_set({1: [(1, 0.2, 0), (24, 0.1, 0)], 2: [(1, 0.2, 0), (24, 0.3, 0)]})
        for run, novel in (("plain", (10.0,)), ("ours", (20.0, 24.0)), ("current", (19.0,))):
            self.result(run, novel)
            self.log(run)
            self.predictions(run, [1, 2])

    @staticmethod
    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty workspace whose chosen dataset is `toy`."""
    monkeypatch.delenv("CONTRASTMASK_HOME", raising=False)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    monkeypatch.setattr(paths, "PAPER_KNOBS", tmp_path / paths.PAPER_KNOBS.relative_to(paths.ROOT))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    space = Workspace(tmp_path)
    knobs = KNOBS.read_text()
    space.write(paths.PARAMS, "dataset: toy\n" + knobs.replace("sigma: 0.3 ", "sigma: 0.2 "))
    knob_files.copy(tmp_path)
    space.write(tmp_path / "declaration" / "toy.yaml", json.dumps(DECLARATION))
    declared = experiments.load(tmp_path / "declaration")
    monkeypatch.setattr(experiments, "load", lambda: declared)
    monkeypatch.setattr(experiments, "chosen_dataset", lambda: experiments.read_yaml(paths.PARAMS)["dataset"])
    return space


@pytest.fixture
def chosen(workspace, monkeypatch):
    """Choose tables in the workspace; all of them to begin with."""
    monkeypatch.setattr(paths, "SELECTION", workspace.root / "pipeline" / "selection.yaml")
    experiments.select(list(experiments.load().tables))
    return experiments.select


@pytest.fixture
def toys(workspace):
    """Data sets that differ from `toy` in the seed alone, and one that differs in more."""
    declared = experiments.load()
    toy = declared.datasets["toy"]
    declared.datasets.update({name: toy | {"seed": 100 + i} for i, name in enumerate(DATA)})
    declared.datasets["wide"] = toy | {"seed": 9, "image_size": 2 * toy["image_size"]}
    return declared
