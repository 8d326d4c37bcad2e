"""Damaged copies of what a finished run left are never taken for what was written. benchmarks/damage.py has more."""

import random
import shutil
from dataclasses import dataclass

import pytest
import torch

from benchmarks.damage import KINDS, damage, outcome, weights
from pipeline import runs
from pipeline.artifacts import checkpoint, paths, results
from pipeline.artifacts.detections import PredictionLines
from pipeline.declaration import experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.reporting import measured
from pipeline.training import loop, starting_weights
from tests.scores import long_tables

DATASET, RUN = "toy", "contrastmask_r50_1x_nonvoc2voc"
CASES = [(kind, seed) for kind in KINDS for seed in range(3)]


@dataclass
class Job:
    name: str = RUN
    dataset: str = DATASET
    seed: int = 0


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    declared = experiments.load()
    monkeypatch.setattr(experiments, "load", lambda: declared)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))


def write_checkpoint(path, fingerprint="f" * 20, value=1.0):
    content = {"a.weight": torch.full((300, 7), value), "b": torch.tensor(3), "c": torch.ones(5, dtype=torch.bfloat16)}
    checkpoint.write(path, content, {"fingerprint": fingerprint, "CLASSES": ["cat"]})


@pytest.mark.parametrize("kind, seed", CASES)
def test_a_damaged_checkpoint_is_trained_again_or_refused(tmp_path, monkeypatch, kind, seed):
    scratch = paths.scratch("f" * 20)
    published = paths.checkpoint(DATASET, RUN, 0)
    write_checkpoint(scratch / "checkpoint.pth")
    write_checkpoint(tmp_path / "other.pth", "e" * 20, 2.0)
    assert loop.finished(scratch)
    content = (scratch / "checkpoint.pth").read_bytes()
    damaged = damage(content, kind, random.Random(seed), (tmp_path / "other.pth").read_bytes())
    published.parent.mkdir(parents=True)
    published.write_bytes(content)
    monkeypatch.setattr(recipe, "fingerprint", lambda job: "f" * 20)
    whole = weights(checkpoint.of_run(Job()))

    (scratch / "checkpoint.pth").write_bytes(damaged)
    if loop.finished(scratch):
        assert weights(torch.load(scratch / "checkpoint.pth", weights_only=True)) == whole
    else:
        assert not (scratch / "checkpoint.pth").exists()

    published.write_bytes(damaged)
    assert outcome(lambda: runs.require_trained(Job()) and weights(checkpoint.of_run(Job())), whole) in (
        "noticed",
        "harmless",
    )
    if kind == "other":
        with pytest.raises(ExperimentError, match=r"seed0/checkpoint.pth: trained with other .* run `dvc repro -s"):
            runs.require_trained(Job())


def test_a_code_edit_between_training_and_evaluation_is_noticed(monkeypatch):
    write_checkpoint(paths.checkpoint(DATASET, RUN, 0))
    monkeypatch.setattr(recipe, "fingerprint", lambda job: "a" * 20)
    with pytest.raises(ExperimentError, match=f"{'f' * 20}, not {'a' * 20}.*run `dvc repro -s -f train@{RUN}`"):
        runs.require_trained(Job())


def test_an_undamaged_finished_training_is_reused():
    scratch = paths.scratch("f" * 20)
    write_checkpoint(scratch / "checkpoint.pth")
    before = (scratch / "checkpoint.pth").stat().st_mtime_ns
    assert loop.finished(scratch) and (scratch / "checkpoint.pth").stat().st_mtime_ns == before
    shutil.copytree(scratch, paths.scratch("e" * 20))  # a finished training under another's name
    assert not loop.finished(paths.scratch("e" * 20)) and loop.finished(scratch)


@pytest.mark.parametrize("kind, seed", [case for case in CASES if case[0] != "other"])
def test_damaged_initial_weights_are_refused(tmp_path, kind, seed):
    path, model = tmp_path / "r50.pth", torch.nn.Linear(300, 7)
    checkpoint.write(path, model.state_dict(), {})
    starting_weights.load(model, path)
    whole = weights({"state_dict": {name: tensor.clone() for name, tensor in model.state_dict().items()}})

    def load():
        starting_weights.load(model, path)
        return weights({"state_dict": model.state_dict()})

    path.write_bytes(damage(path.read_bytes(), kind, random.Random(seed)))
    assert outcome(load, whole) in ("noticed", "harmless")


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"state_dict": None}, [], 5])
def test_a_file_of_something_else_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "r50.pth"
    torch.save(content, path)
    with pytest.raises(ExperimentError, match=r"r50.pth: damaged \(it (holds no|cannot be read, ).*\); run `dvc"):
        starting_weights.load(torch.nn.Linear(2, 2), path)


@pytest.mark.parametrize(
    "weights, problem",
    [
        ({"head.other": torch.zeros(1)}, "'head.other' has no place in the model"),
        ({"head.bias": torch.zeros(3)}, r"'head.bias' is \(3,\), in the model \(2,\)"),
        ({"head.bias": torch.zeros(2)}, "'head.weight' is missing, while other tensors of 'head' are there"),
    ],
)
def test_initial_weights_that_do_not_fit_the_model_are_refused(tmp_path, weights, problem):
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "more": torch.nn.Linear(2, 2)})
    checkpoint.write(tmp_path / "r50.pth", weights, {})
    with pytest.raises(ExperimentError, match=f"r50.pth: {problem}; run `dvc repro -s -f pretrain@r50`"):
        starting_weights.load(model, tmp_path / "r50.pth")


def test_what_a_run_has_beside_its_detector_starts_fresh(tmp_path):
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "more": torch.nn.Linear(2, 2)})
    before = model["more"].weight.clone()
    checkpoint.write(tmp_path / "r50.pth", {"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)}, {})
    starting_weights.load(model, tmp_path / "r50.pth")
    assert torch.equal(model["head"].weight, torch.ones(2, 2)) and torch.equal(model["more"].weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_diverged_are_no_result(value):
    weights = torch.nn.BatchNorm1d(3).state_dict()
    loop.require_finite(weights, "mine")
    weights["running_var"][1] = value
    with pytest.raises(ExperimentError, match="run mine: running_var is not finite at the end of the training; lower"):
        loop.require_finite(weights, "mine")


def write_results(run, ap=12.345678901234567, predictions=None):
    scores = long_tables(dict.fromkeys(("novel", "base", "all"), ap), {"cat": ap})
    results.write(
        DATASET,
        run,
        {
            "run": run,
            "dataset": DATASET,
            "direction": "nonvoc2voc",
            "task": "instances",
            "seeds": [0],
            "per_seed": [{"seed": 0, "predictions": predictions, **scores}],
        },
    )


@pytest.mark.parametrize("kind, seed", CASES)
def test_damaged_results_are_refused(kind, seed):
    run = experiments.load().run(RUN)
    write_results(RUN)
    write_results("other", 50.0)
    path, whole = paths.results(DATASET, RUN), measured.result(DATASET, run)
    other = paths.results(DATASET, "other").read_bytes()
    path.write_bytes(damage(path.read_bytes(), kind, random.Random(seed), other))
    assert outcome(lambda: measured.result(DATASET, run), whole) in ("noticed", "harmless")


@pytest.mark.parametrize("kind, seed", CASES)
def test_damaged_predictions_are_refused(tmp_path, kind, seed):
    path = paths.predictions(DATASET, RUN, 0)
    for target, score in ((tmp_path / "other.json", 0.1), (path, 0.5)):
        lines = PredictionLines(tmp_path / "lines", {"score": score}, [1, 2])
        for image in (1, 2):
            lines.add(image, [{"image_id": image, "score": score}] * 3)
        lines.publish(target)
        lines.close()
    write_results(RUN, predictions=results.predictions_digest(DATASET, RUN, 0))
    run = experiments.load().run(RUN)
    whole = measured.predictions(DATASET, run)
    path.write_bytes(damage(path.read_bytes(), kind, random.Random(seed), (tmp_path / "other.json").read_bytes()))
    assert outcome(lambda: measured.predictions(DATASET, run), whole) == "noticed"


@pytest.mark.parametrize("kind, seed", CASES)
def test_damaged_saved_detections_are_made_anew(tmp_path, kind, seed):
    images, path = list(range(6)), tmp_path / "predictions.jsonl"

    def detect(path, score=0.5):
        lines = PredictionLines(path, {"score": score}, images)
        for image in images[lines.done :]:
            lines.add(image, [{"image_id": image, "score": score}] * 3)
        lines.publish(tmp_path / "seed0.json")
        lines.close()
        return (tmp_path / "seed0.json").read_bytes()

    detect(tmp_path / "other.jsonl", 0.1)
    whole = detect(path)
    path.write_bytes(damage(path.read_bytes(), kind, random.Random(seed), (tmp_path / "other.jsonl").read_bytes()))
    assert detect(path) == whole


def test_lines_that_changed_places_or_are_missing_are_made_anew(tmp_path):
    path = tmp_path / "predictions.jsonl"
    lines = PredictionLines(path, {}, [1, 2, 3])
    for image in (1, 2, 3):
        lines.add(image, [])  # nothing in the records tells the image
    lines.close()
    header, first, second, third = path.read_bytes().splitlines(keepends=True)
    for content, done in ((header + second + first + third, 0), (header + first + third, 1), (header + first * 3, 1)):
        path.write_bytes(content)
        lines = PredictionLines(path, {}, [1, 2, 3])
        assert lines.done == done
        lines.close()
