"""Methods are rooms: found by their folder, read without torch, strangers to each other."""

import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.declaration import config, experiments, recipe
from pipeline.errors import ExperimentError

BASELINE, CAM, OURS = (f"{method}_r50_1x_nonvoc2voc" for method in ("mask_rcnn", "cam", "contrastmask"))
ORACLE = "contrastmask_oracle_voc2nonvoc"

ROOM = """
from pipeline.declaration.knobs import KnobSet
from pipeline.methods import Method


class Knobs(KnobSet):
    beta: float = 0.5


METHOD = Method(
    task="instances", label="Toy", colour="#123456", about="a toy", knobs=Knobs, detector="toy",
    model=lambda knobs, sizes, backbone, num_classes: {"beta": knobs.beta}, modules=(),
)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A method in a folder elsewhere."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text(ROOM)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "__init__.py").touch()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield methods.method("toy")
    del sys.modules["pipeline.methods.toy"], methods.toy


def overridden(name, **overrides):
    """A declared run whose knobs differ, resolved."""
    declared = experiments.load()
    run = replace(declared.run(name), overrides=overrides)
    return config.resolve(name, "generated", 0, replace(declared, runs=declared.runs | {name: run}))


def test_a_folder_that_exports_a_method_is_one(toy):
    assert "toy" in methods.names() and "nothing" not in methods.names() and "shared" not in methods.names()
    assert toy.load_knobs({"sigma": 0.3, "beta": 0.7}, "mine.yaml").beta == 0.7
    assert toy.load_knobs({"sigma": 0.3}, "mine.yaml").beta == 0.5
    assert toy.knobs.model_fields.keys() == {"seeds", "beta"}
    with pytest.raises(ExperimentError, match="mine.yaml: knob beta is 'x'; valid: a number"):
        toy.load_knobs({"beta": "x"}, "mine.yaml")


def test_an_unknown_method_is_met_with_the_nearest():
    with pytest.raises(ExperimentError, match=r"unknown method 'contrastmusk'; .*; did you mean 'contrastmask'\?"):
        methods.method("contrastmusk")


def test_a_part_that_a_method_has_not_is_named_with_those_that_do():
    for part in ("golden", "checkpoint_map", "look_inside"):
        with pytest.raises(ExperimentError, match=f"method cam has no {part}; valid: contrastmask"):
            methods.required("cam", part)


def test_reading_what_methods_declare_needs_no_torch():
    code = "import sys; from pipeline import methods; methods.all_knobs(); print({'torch', 'mmcv'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_a_method_trains_with_is_no_other_s_code():
    for name in (BASELINE, CAM):
        code = recipe.of_training(overridden(name))["code"]
        assert code and not [module for module in code if "contrastmask" in module]
    for name, read in ((OURS, False), (ORACLE, True)):
        code = recipe.of_training(config.resolve(name, "generated", 0))["code"]
        assert ("pipeline.methods.contrastmask.oracle_steps" in code) is read
        assert not [module for module in code if module.endswith((".golden", ".released_checkpoint", ".look_inside"))]
    pretraining = recipe.of_training(config.resolve_pretraining("r50", "generated"))["code"]
    assert "pipeline.methods.shared.cam_box_head" in pretraining
    assert not {"pipeline.methods.shared.partial_roi_head", "pipeline.methods.contrastmask.roi_head"} & set(pretraining)


@pytest.mark.parametrize(
    "name, knob, value", [(BASELINE, "sigma", 0.2), (BASELINE, "cam_frame", "refined"), (CAM, "sigma", 0.2)]
)
def test_a_knob_that_the_method_has_not_is_refused_in_a_row(name, knob, value):
    with pytest.raises(ExperimentError, match=rf"runs\.{name}\.overrides: method \w+: unknown knob '{knob}'"):
        overridden(name, **{knob: value})


def test_a_knob_of_another_method_changes_no_training(monkeypatch):
    before = {name: recipe.of_training(overridden(name)) for name in (BASELINE, CAM)}
    pinned = experiments.read_yaml

    def turned(path, **options):
        content = pinned(path, **options)
        return content | {"sigma": 0.2, "cl_join": "concat"} if "sigma" in content else content

    monkeypatch.setattr(experiments, "read_yaml", turned)
    assert config.load_knobs(experiments.load().run(OURS)).sigma == 0.2
    assert before == {name: recipe.of_training(overridden(name)) for name in before}


def test_initial_weights_are_keyed_by_detector_and_backbone(toy):
    backbones = experiments.load().backbones
    assert methods.weights_key("two_stage", "r50") == "r50" and methods.weights_key("toy", "r50") == "toy_r50"
    assert methods.of_weights("r50", backbones) == ("two_stage", "r50")
    assert methods.of_weights("toy_x101", backbones) == ("toy", "x101")
    with pytest.raises(ExperimentError, match="unknown initial weights 'r51'"):
        methods.of_weights("r51", backbones)


def test_every_method_names_a_detector_and_looks_like_no_other():
    rooms = {name: methods.method(name) for name in methods.names()}
    assert all(room.detector in rooms and rooms[room.detector].sizes is room.sizes for room in rooms.values())
    assert len({room.colour for room in rooms.values()}) == len({room.label for room in rooms.values()}) == len(rooms)
