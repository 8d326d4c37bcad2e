"""ImageNet weights, downloaded or put there by hand, are those of the backbone or refused in one line."""

import hashlib
from dataclasses import replace

import pytest
import torch

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.training import initial_weights

from mmdet.models import build_backbone  # isort: skip  needs pipeline.compat

DECLARED = experiments.load()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Give a function that puts content where a user would, and prepares the weights of a small `download` profile."""
    declared = DECLARED
    embedded = declared.profiles["embedded"]
    folder = tmp_path / "data" / "weights"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(experiments, "load", lambda: declared)  # below another root there are no files of knobs
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))

    def prepare(content, name=None, elsewhere=None):
        file = tmp_path / "written.pth"
        torch.save(content, file) if not isinstance(content, bytes) else file.write_bytes(content)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        name = name or f"resnet-{digest}.pth"
        file.rename(folder / name if elsewhere is None else elsewhere / name)
        url = f"file://{elsewhere or tmp_path / 'nowhere'}/{name}"
        profile = embedded | {"initial_weights": {"kind": "download", "r50": url}}
        changed = replace(declared, profiles=declared.profiles | {"embedded": profile})
        monkeypatch.setattr(experiments, "load", lambda: changed)
        initial_weights.prepare("r50", "generated")
        return torch.load(paths.initial_weights("generated", "r50"), weights_only=True)["state_dict"]

    return prepare


@pytest.fixture
def weights():
    torch.manual_seed(0)
    backbone = build_backbone(dict(DECLARED.profiles["embedded"]["backbones"]["r50"]))
    return backbone.state_dict() | {"fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_put_there_by_hand_is_taken(place, weights, wrapped):
    got = place({"state_dict": weights} if wrapped else weights)
    assert got.keys() == {f"backbone.{key}" for key in weights if not key.startswith("fc.")}
    assert all(torch.equal(got[f"backbone.{key}"], weights[key]) for key in weights if not key.startswith("fc."))


def test_a_file_is_downloaded_and_checked(place, weights, tmp_path):
    (tmp_path / "mirror").mkdir()
    assert place(weights, elsewhere=tmp_path / "mirror")
    with pytest.raises(ExperimentError, match="its SHA-256 starts with .*, its name says 01234567; delete it and run"):
        place(weights, name="resnet-01234567.pth", elsewhere=tmp_path / "mirror")


def test_counters_of_batches_may_be_missing(place, weights):
    assert place({key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")})


def without(key):
    return lambda weights: {name: value for name, value in weights.items() if name != key}


def with_value(key, change):
    return lambda weights: weights | {key: change(weights[key].clone())}


MISTAKES = {
    "empty": (lambda weights: {}, "tensors of the backbone are missing, such as 'conv1.weight'"),
    "one key less": (without("layer2.0.conv1.weight"), "1 of .* missing, such as 'layer2.0.conv1.weight'"),
    "no statistics": (without("bn1.running_mean"), "missing, such as 'bn1.running_mean'"),
    "NaN": (
        with_value("conv1.weight", lambda t: t.index_fill_(0, torch.tensor([1]), float("nan"))),
        "'conv1.weight' holds a value that is not finite",
    ),
    "infinite": (with_value("bn1.running_var", lambda t: t + float("inf")), "'bn1.running_var' holds a value"),
    "shape": (
        with_value("conv1.weight", lambda t: t[:, :1]),
        r"'conv1.weight' is \((\d+), 1, 7, 7\), expected \(\1, 3, 7, 7\)",
    ),
    "stranger": (lambda weights: weights | {"layer9.weight": torch.zeros(1)}, "'layer9.weight' is no tensor"),
    "no tensor": (lambda weights: weights | {"conv1.weight": 3}, "'conv1.weight' is"),
    "a list": (lambda weights: [1, 2], "missing, such as"),
    "a list inside": (lambda weights: {"state_dict": [1, 2]}, "missing, such as"),
    "text": (lambda weights: b"<html>not found</html>", "cannot be read as weights"),
    "nothing": (lambda weights: b"", "cannot be read as weights"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_other_files_are_refused_in_one_line_and_nothing_is_written(place, weights, mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ExperimentError, match=message) as error:
        place(change(weights))
    assert "\n" not in str(error.value) and "delete it and run `dvc repro pretrain@r50`" in str(error.value)
    assert not paths.initial_weights("generated", "r50").exists()


def test_another_hash_than_the_name_says_is_refused(place, weights):
    with pytest.raises(ExperimentError, match="its name says 01234567; delete it and run `dvc repro pretrain@r50`"):
        place(weights, name="resnet-01234567.pth")


def test_a_file_that_is_nowhere_says_where_to_put_it(place, weights, tmp_path):
    (tmp_path / "mirror").mkdir()
    place(weights, elsewhere=tmp_path / "mirror")
    (tmp_path / "data" / "weights").joinpath(next((tmp_path / "mirror").iterdir()).name).unlink()
    next((tmp_path / "mirror").iterdir()).unlink()
    with pytest.raises(ExperimentError, match="on a machine without network put the file into"):
        initial_weights.prepare("r50", "generated")
