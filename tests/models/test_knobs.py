"""Knobs, recipes and architecture: what is read, what is refused, and that every knob changes the model."""

import dataclasses

import pytest

from pipeline.declaration.knobs import Knobs, preset_values
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask.model import Architecture, model_config

from .conftest import METHODS, SMALL, SMALL_BACKBONE

PAPER = dataclasses.asdict(Knobs.preset("paper"))


def config(knobs=None, method="contrastmask", **architecture):
    architecture = Architecture.from_mapping({**SMALL, **architecture})
    return model_config(knobs or Knobs.preset("paper"), METHODS[method], architecture, SMALL_BACKBONE)


@pytest.mark.parametrize(
    ("knob", "value", "valid"),
    [
        ("sigma", 0, "in (0, 1]"),
        ("sigma", 1.01, "in (0, 1]"),
        ("sigma", "abc", "in (0, 1]"),
        ("sigma", True, "in (0, 1]"),
        ("sigma", float("nan"), "in (0, 1]"),
        ("delta", 0.5, "in (0, 0.5)"),
        ("delta", 0, "in (0, 0.5)"),
        ("tau_easy", 0, "recipe"),
        ("recipe", "published", "paper, released"),
        ("seeds", [], "different integers"),
        ("seeds", [0, 0], "different integers"),
        ("seeds", [-1], "different integers"),
        ("seeds", 0, "different integers"),
        ("seeds", [0, 0.0], "different integers"),
        ("seeds", [float("nan")], "different integers"),
        ("min_keys", float("nan"), "an integer"),
        ("min_keys", float("inf"), "an integer"),
        ("encoder_convs", 2.5, "an integer"),
        ("query_sharing", 1, "true, false"),
        ("cl_join", "add", "sum, concat"),
        ("supervision", "recipe", "base, novel, all, oracle"),
        ("sigma", "recipe", "in (0, 1]"),
        ("cl_loss_weight", -1, "at least 0"),
        ("cl_loss_weight", float("inf"), "at least 0"),
    ],
)
def test_bad_values_are_named_with_the_valid_ones(knob, value, valid):
    with pytest.raises(ExperimentError) as error:
        Knobs.load({**PAPER, knob: value}, "my.yaml")
    message = str(error.value)
    assert message.startswith(f"my.yaml: knob {knob} is {value!r}; valid: ")
    assert valid in message
    assert "\n" not in message


def test_a_misspelt_knob_is_met_with_the_nearest():
    with pytest.raises(ExperimentError, match="my.yaml: unknown knob 'sigm'; did you mean 'sigma'"):
        Knobs.load({**PAPER, "sigm": 0.2}, "my.yaml")


def test_a_missing_knob_is_named():
    with pytest.raises(ExperimentError, match="knob 'delta' is missing"):
        Knobs.load({key: value for key, value in PAPER.items() if key != "delta"})


def test_presets_name_existing_knobs_with_valid_values():
    for recipe in ("paper", "released"):
        values = preset_values(recipe)
        loaded = Knobs.load({**PAPER, "recipe": recipe, **dict.fromkeys(values, "recipe")})
        assert dataclasses.asdict(loaded).items() >= values.items()


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_a_recipe_has_values_of_its_own_for_a_schedule(recipe):
    def values(schedule, **moved):
        knobs = Knobs.preset(recipe, schedule, **moved)
        return knobs.mask_format, knobs.lambda_epoch_passes

    assert values("1x") == ("bitmap", 1) and values("3x") == ("polygon", 3)
    assert values("3x", mask_format="bitmap") == ("bitmap", 3)
    differing = {k for k, v in preset_values(recipe, "3x").items() if preset_values(recipe, "1x")[k] != v}
    assert differing == {"mask_format", "lambda_epoch_passes"}


def test_a_schedule_without_a_value_is_named_with_its_remedy():
    with pytest.raises(ExperimentError, match="the schedules 1x, 3x and not '2x'; add it, or set lambda_epoch_pa"):
        Knobs.load({**PAPER, "recipe": "released"}, schedule="2x")


def test_one_difference_can_be_moved_alone():
    mapping = {**PAPER, **dict.fromkeys(preset_values("paper"), "recipe"), "recipe": "released"}
    moved = Knobs.load({**mapping, "tau_easy": 0.7})
    released = Knobs.load(mapping)
    assert dataclasses.replace(moved, tau_easy=0.3) == released


def test_the_table_of_differences_covers_the_model_and_is_complete():
    rows = Knobs.describe()
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert {f"D{n}" for n in (*range(1, 26), *range(27, 34))} <= set(ids)
    for row in rows:
        assert row.keys() == {"id", "knob", "description", "paper", "released", "note"}
        assert row["knob"] is None or row["knob"] in PAPER
        assert row["description"]


OTHER = {
    "sigma": 0.2,
    "delta": 0.2,
    "tau_easy": 0.4,
    "tau_hard": 0.4,
    "cl_loss_weight": 0.5,
    "encoder_convs": 5,
    "projector_layers": 2,
    "loss_scale": 0.2,
    "lambda_warmup_epochs": 2,
    "lambda_epoch_passes": 2,
    "min_keys": 3,
    "cl_key_scale": 0.5,
}


# mask_format is a matter of the data, see tests/core/test_released_configuration.py
@pytest.mark.parametrize("knob", sorted(PAPER.keys() - {"recipe", "seeds", "mask_format"}))
def test_flipping_a_knob_changes_the_model(knob):
    field = next(f for f in dataclasses.fields(Knobs) if f.name == knob)
    value = PAPER[knob]
    if field.type is bool:
        other = not value
    elif field.type is str:
        other = next(choice for choice in field.metadata["choices"] if choice != value)
    else:
        other = OTHER[knob]
    assert config(Knobs.load({**PAPER, knob: other})) != config()


@pytest.mark.parametrize("field", dataclasses.fields(Architecture), ids=lambda field: field.name)
def test_every_field_of_the_architecture_changes_the_model(field):
    default = getattr(Architecture.from_mapping(SMALL), field.name)
    if isinstance(default, bool):
        other = not default
    elif isinstance(default, tuple):
        other = (*default, 2 * default[-1])
    else:
        other = default - 1 if field.name == "roi_levels" else default + 1
    knobs = Knobs.preset("released")
    assert config(knobs, **{field.name: other}) != config(knobs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"neck_chanels": 3}, "did you mean 'neck_channels'"),
        ({"strides": 4}, "strides is 4"),
        ({"neck_channels": "many"}, "neck_channels is 'many'"),
        ({"neck_channels": 2.5}, "neck_channels is 2.5"),
        ({"box_reg_pooled": 1}, "box_reg_pooled is 1"),
        ({"roi_levels": 9}, "valid: 1 to 5"),
    ],
)
def test_bad_architectures_are_refused(overrides, message):
    with pytest.raises(ExperimentError, match=message):
        Architecture.from_mapping(overrides)


def test_widths_that_cannot_be_summed_are_refused():
    with pytest.raises(ExperimentError, match="contrast_channels is 8 but neck_channels 16"):
        config(contrast_channels=8)
    assert config(Knobs.preset("paper", cl_join="concat"), contrast_channels=8)
    assert config(Knobs.preset("paper", cl_fusion="conv"), contrast_channels=8)


def test_the_methods_differ_in_what_enters_the_mask_head_and_nothing_else():
    heads = {method: config(method=method)["roi_head"] for method in METHODS}
    plain, cam = ({**heads[m], "mask_head": None} for m in ("mask_rcnn", "cam"))
    assert {key for key in plain if plain[key] != cam[key]} == {"use_cam"}
    full = {**heads["contrastmask"], "mask_head": None}
    assert {key for key in cam if full[key] != cam[key]} == {"cl_head"}


def test_the_full_model_has_the_papers_sizes():
    from pipeline.methods.contrastmask.released_checkpoint import released_model

    def count(*modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    head = released_model("r50").roi_head
    assert count(head.cl_head.encoder) == 4_720_640
    assert count(head.cl_head.projector) == 197_888
    assert count(head.cl_head.fusion) == 65_792
    assert count(head.bbox_head.shared_convs, head.bbox_head.cls_convs, head.bbox_head.reg_convs) == 4_130_560
    assert count(head.bbox_head.fc_cls) == 20_817
    assert count(head.bbox_head.fc_reg) == 82_240
    assert count(head.mask_head.convs) == 2_360_320
    assert count(head.mask_head.upsample) == 262_400
    assert count(head.mask_head.conv_logits) == 257
