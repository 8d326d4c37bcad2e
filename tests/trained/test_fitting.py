"""A training starts from whatever fits of a trained detector, and says what that was."""

import logging

import pytest
import torch

from pipeline.artifacts import checkpoint, files, paths
from pipeline.declaration import config, recipe, schema, strict
from pipeline.errors import ExperimentError
from pipeline.trained import fitting, reading, starting
from pipeline.training import loop
from tests import tiny
from tests.trained.conftest import DECLARED, classes

NAMES = ("disc", "star", "bolt")
MODEL = {
    "a.weight": (2, 3),
    "a.bias": (2,),
    "b.weight": (4, 2),
    "b.bias": (4,),
    "b.num_batches_tracked": (),
    "c.x": (1,),
}


def state(**changes):
    full = {name: torch.ones(shape) for name, shape in MODEL.items()} | changes
    return {name: tensor for name, tensor in full.items() if tensor is not None}


def test_all_that_fits_is_taken():
    fit = fitting.fit(state(), MODEL)
    assert fit.taken.keys() == MODEL.keys() and not fit.fresh and not fit.ignored


@pytest.mark.parametrize("same, changes", [(True, {"b.bias": torch.ones(5)}), (False, {})])
def test_a_layer_of_other_classes_is_initialised_again_as_a_whole(same, changes):
    fit = fitting.fit(state(**changes), MODEL, {"b.weight", "b.bias"}, same)
    assert fit.taken.keys() == {"a.weight", "a.bias", "c.x"}
    assert {fit.fresh[name] for name in ("b.weight", "b.bias")} <= {"other classes", "incomplete layer"}
    assert fit.ignored.keys() == fit.fresh.keys() == {"b.weight", "b.bias", "b.num_batches_tracked"}


def test_what_is_missing_counters_and_what_is_more():
    fit = fitting.fit(state(**{"c.x": None, "b.num_batches_tracked": None, "d.x": torch.ones(1)}), MODEL)
    assert fit.fresh == {"c.x": "not in the file", "b.num_batches_tracked": "not in the file"}
    assert fit.ignored == {"d.x": "no place in the model"}
    assert fit.taken.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    last = fit.table().splitlines()[-1].split("|")
    assert [cell.strip() for cell in last[1:5]] == ["all", "4", "2", "1"]


def prepared(file, starts_from):
    starts_from(file, reading.sha256(file))
    assert starting.starts(tiny.DATASET)
    starting.prepare("r50", tiny.DATASET)
    return config.resolve(tiny.RUN, tiny.DATASET, 0)


def fitted(training, folder, caplog):
    caplog.set_level(logging.INFO, "pipeline")
    starting.fit(training, folder)
    return checkpoint.read(folder / starting.FITTED)["state_dict"], caplog.text


@pytest.fixture
def restored():
    """Put the initial weights of the others back."""
    path = paths.initial_weights(tiny.DATASET, "r50")
    content = path.read_bytes()
    yield
    files.write_bytes(path, content)


def test_a_detector_of_mmdetection_with_other_classes(of_mmdetection, starts_from, restored, tmp_path, caplog):
    file = of_mmdetection(NAMES)
    training = prepared(file, starts_from)
    assert training.fitted and training.initial_weights == "r50"
    weights, said = fitted(training, tmp_path, caplog)
    given = torch.load(file, weights_only=False)["state_dict"]
    parts = {name.split(".")[0] for name in weights}
    assert {"backbone", "neck", "rpn_head"} <= parts
    assert all(torch.equal(tensor, given[name]) for name, tensor in weights.items())
    assert "roi_head.mask_head.convs.0.conv.weight" in weights
    assert not any("fc_cls" in name or "fc_reg" in name or "conv_logits" in name for name in weights)
    assert "re-initialised" in said and "not in the file" in said and "roi_head.cl_head" in said


def test_a_run_of_the_same_classes_is_taken_whole(trained, starts_from, restored, tmp_path, caplog):
    file = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    training = prepared(file, starts_from)
    weights, _ = fitted(training, tmp_path, caplog)
    assert weights.keys() == checkpoint.read(file)["state_dict"].keys()


def test_classes_of_other_names_are_not_taken_though_they_are_as_many(
    of_mmdetection, starts_from, restored, tmp_path, caplog
):
    names = tuple(f"other {name}" for name in classes())
    training = prepared(of_mmdetection(names), starts_from)
    weights, said = fitted(training, tmp_path, caplog)
    assert not any("fc_cls" in name for name in weights)


@pytest.mark.slow
def test_a_training_starts_from_it(of_mmdetection, starts_from, restored, tmp_path, caplog):
    caplog.set_level(logging.INFO, "pipeline")
    file = of_mmdetection(NAMES)
    changed = starts_from(file, reading.sha256(file))
    starting.prepare("r50", tiny.DATASET)
    job = tiny.job(iterations=1)
    assert job.fitted
    scratch = loop.train(job)
    assert "starts from" in caplog.text and not (scratch / starting.FITTED).exists()
    trained = checkpoint.read(scratch / "checkpoint.pth")["state_dict"]
    given = torch.load(file, weights_only=False)["state_dict"]
    name = "neck.lateral_convs.0.conv.weight"
    assert (trained[name] - given[name]).abs().max() < 0.01  # a step of AdamW from there
    assert changed.dataset(tiny.DATASET)["initial_weights"]["kind"] == "checkpoint"


def test_the_identity_is_that_of_the_content(trained, starts_from):
    before = recipe.of_initial_weights("r50", tiny.DATASET, DECLARED)
    plain = recipe.of_training(config.resolve(tiny.RUN, tiny.DATASET, 0, DECLARED))
    found = [
        recipe.identity(recipe.of_initial_weights("r50", tiny.DATASET, starts_from(name, digest * 64)))
        for name, digest in (("a.pth", "a"), ("b.pth", "a"), ("a.pth", "b"))
    ]
    assert found[0] == found[1] != found[2] and recipe.identity(before) not in found
    assert "fitted" not in plain["configuration"]
    of_run = recipe.of_training(config.resolve(tiny.RUN, tiny.DATASET, 0, starts_from("a.pth", "a" * 64)))
    assert of_run["configuration"]["fitted"] and "pipeline.trained.fitting" in of_run["code"]
    assert "pipeline.trained.fitting" not in plain["code"]


def other(trained, change):
    """The tensors of the run, changed."""
    return change(checkpoint.read(paths.checkpoint(tiny.DATASET, tiny.RUN, 0))["state_dict"])


MISTAKES = {
    "no file": (None, "no such file"),
    "a text": (b"weights", "not a checkpoint of tensors alone"),
    "no tensors": ({"epoch": 3}, "not a checkpoint: expected names with tensors"),
    "nothing fits": (
        {"state_dict": {"encoder.weight": torch.ones(2)}},
        "none of its 1 tensors, such as 'encoder.weight'",
    ),
    "other backbone": (
        lambda weights: weights | {"backbone.conv1.weight": torch.ones(64, 3, 7, 7)},
        "of another architecture: .* such as 'backbone.conv1.weight' \\(other shape\\)",
    ),
    "no backbone": (
        lambda weights: {name: value for name, value in weights.items() if not name.startswith("backbone.")},
        "of another architecture: .* tensors of the backbone of r50 do not fit",
    ),
    "not finite": (
        lambda weights: weights | {"neck.lateral_convs.0.bn.bias": torch.full((32,), float("nan"))},
        "'neck.lateral_convs.0.bn.bias' holds a value that is not finite; start from another file",
    ),
}


@pytest.mark.parametrize("content, words", MISTAKES.values(), ids=MISTAKES)
def test_a_file_that_nothing_starts_from_is_refused(trained, starts_from, tmp_path, content, words):
    file = tmp_path / "given.pth"
    if callable(content):
        content = {"state_dict": other(trained, content)}
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    starts_from(file, reading.sha256(file) if file.exists() else "0" * 64)
    before = paths.initial_weights(tiny.DATASET, "r50").read_bytes()
    with pytest.raises(ExperimentError, match=words):
        starting.prepare("r50", tiny.DATASET)
    assert paths.initial_weights(tiny.DATASET, "r50").read_bytes() == before


def test_another_file_than_the_declared_one_is_refused_and_declared_or_brought_back(trained, starts_from, restored):
    file = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    starts_from(file, "0" * 64)
    with pytest.raises(ExperimentError, match="its SHA-256 is .*; bring the declared file back, or declare this one"):
        starting.prepare("r50", tiny.DATASET)
    starts_from(file, reading.sha256(file))
    starting.prepare("r50", tiny.DATASET)


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, "initial_weights.file: is missing; give the path of a checkpoint"),
        (
            {"file": "a.pth"},
            "initial_weights.sha256: is missing; give the SHA-256 of the file, which `sha256sum FILE` prints",
        ),
        ({"file": "a.pth", "sha256": "12"}, "initial_weights.sha256"),
        ({"file": "a.pth", "sha256": "0" * 64, "url": "x"}, "initial_weights.url: unknown key"),
    ],
)
def test_a_declaration_that_lacks_something(given, words):
    entry = DECLARED.dataset(tiny.DATASET) | {"initial_weights": {"kind": "checkpoint"} | given}
    with pytest.raises(ExperimentError, match=words):
        strict.check(schema.Dataset, entry, "datasets.yaml")
