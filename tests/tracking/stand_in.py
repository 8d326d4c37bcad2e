"""A training without a model: what tracking reads of one, and log records as a training writes them."""

import json
import random
from types import SimpleNamespace

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.artifacts.results import Scores
from pipeline.tasks.instances import TASK
from tests.scores import long_tables

LOSSES = (
    "loss_rpn_cls",
    "loss_rpn_bbox",
    "loss_cls",
    "acc",
    "loss_bbox",
    "loss_mask",
    "loss_cam",
    "loss_contrast",
    "loss",
    "lr",
    "grad_norm",
)
GROUPS = {group: {"mAP": 12.5, "AP50": 25.0, "AP75": None} for group in ("novel", "base", "all")}
SCORES = Scores(TASK, long_tables(GROUPS, {"person": 12.5}))
METRICS_OF_SCORES = 12


def training(name, seed=0):
    """What a Tracker needs of a pipeline.declaration.config.Training; that module would import torch and mmdet."""
    return SimpleNamespace(
        name=name,
        seed=seed,
        dataset="generated",
        split="nonvoc2voc",
        direction="nonvoc2voc",
        backbone="r50",
        knobs=methods.method("contrastmask").preset("released"),
        data={"batch_size": 4},
        method="contrastmask",
        schedule={"epochs": 12, "milestones": [8, 11]},
        optimisation={"optimizer": {"type": "SGD", "lr": 0.02}, "log_interval": 10},
    )


def record(step):
    """The record of iteration `step` of a training log: the same numbers whenever it is asked for."""
    draw = random.Random(step)
    return {"iter": step, **{name: draw.random() for name in LOSSES}}


def write_record(fingerprint, step):
    """Append the record of an iteration to the log of a training, as training does before it is tracked."""
    path = paths.scratch(fingerprint) / "log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record(step)) + "\n")
    return record(step)


def differences(client, run, steps):
    """What of a stored run's training log is not exactly as written: a sorted list, empty if all is there once."""
    wanted = {(name, step): record(step)[name] for step in steps for name in LOSSES}
    found = {}
    for name in LOSSES:
        for point in client.get_metric_history(run.info.run_id, f"train/{name}"):
            found.setdefault((name, point.step), []).append(point.value)
    return sorted(
        f"{name} at {step}: stored {found.get((name, step), [])}, written {wanted.get((name, step))}"
        for name, step in wanted.keys() | found.keys()
        if found.get((name, step)) != [wanted.get((name, step))]
    )
