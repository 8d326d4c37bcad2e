"""Knobs, recipes and architecture: what is read, what is refused, and that every knob changes the model."""

import typing

import pytest

from pipeline import methods
from pipeline.declaration import knobs as knob_sets
from pipeline.declaration import strict
from pipeline.errors import ExperimentError
from pipeline.methods.shared.sizes import Sizes

from .conftest import METHODS, SMALL, configuration

ROOM = methods.method("contrastmask")
PAPER = ROOM.preset("paper").model_dump()


def load(mapping, source="params.yaml", schedule="1x"):
    return ROOM.load_knobs(mapping, source, schedule)


def preset_values(recipe, schedule="1x"):
    return knob_sets.preset_values(ROOM.recipes, recipe, schedule)


def config(knobs=None, method="contrastmask", **sizes):
    return configuration(method, knobs, {**SMALL, **sizes})


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
        ("prior", "mask", "cam, oracle, file, points, scribbles"),
        ("prior_file", None, "none, or the name of a file in priors/"),
        ("prior_radius", 0, "in (0, 0.5]"),
        ("prior_rest", "all", "none, cam"),
        ("sigma", "recipe", "in (0, 1]"),
        ("cl_loss_weight", -1, "at least 0"),
        ("cl_loss_weight", float("inf"), "at least 0"),
    ],
)
def test_bad_values_are_named_with_the_valid_ones(knob, value, valid):
    with pytest.raises(ExperimentError) as error:
        load({**PAPER, knob: value}, "my.yaml")
    message = str(error.value)
    assert message.startswith(f"my.yaml: knob {knob} is {value!r}; valid: ")
    assert valid in message
    assert "\n" not in message


def test_a_misspelt_knob_is_met_with_the_nearest():
    with pytest.raises(ExperimentError, match="my.yaml: unknown knob 'sigm'; did you mean 'sigma'"):
        load({**PAPER, "sigm": 0.2}, "my.yaml")


def test_a_missing_knob_is_named():
    with pytest.raises(ExperimentError, match="knob 'delta' is missing"):
        load({key: value for key, value in PAPER.items() if key != "delta"})


def test_presets_name_existing_knobs_with_valid_values():
    for recipe in ("paper", "released"):
        values = preset_values(recipe)
        loaded = load({**PAPER, "recipe": recipe, **dict.fromkeys(values, "recipe")})
        assert loaded.model_dump().items() >= values.items()


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_a_recipe_has_values_of_its_own_for_a_schedule(recipe):
    def values(schedule, **moved):
        knobs = ROOM.preset(recipe, schedule, **moved)
        return knobs.mask_format, knobs.lambda_epoch_passes

    assert values("1x") == ("bitmap", 1) and values("3x") == ("polygon", 3)
    assert values("3x", mask_format="bitmap") == ("bitmap", 3)
    differing = {k for k, v in preset_values(recipe, "3x").items() if preset_values(recipe, "1x")[k] != v}
    assert differing == {"mask_format", "lambda_epoch_passes"}


def test_a_schedule_without_a_value_is_named_with_its_remedy():
    with pytest.raises(ExperimentError, match="the schedules 1x, 3x and not '2x'; add it, or set lambda_epoch_pa"):
        load({**PAPER, "recipe": "released"}, schedule="2x")


def test_one_difference_can_be_moved_alone():
    mapping = {**PAPER, **dict.fromkeys(preset_values("paper"), "recipe"), "recipe": "released"}
    moved = load({**mapping, "tau_easy": 0.7})
    released = load(mapping)
    assert moved.model_copy(update={"tau_easy": 0.3}) == released


def test_the_table_of_differences_covers_the_model_and_is_complete():
    rows = knob_sets.differences(ROOM.recipes)
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


# mask_format and prior_file are a matter of the data, see test_released_configuration.py and test_priors.py
@pytest.mark.parametrize(
    "knob", sorted(PAPER.keys() - {"recipe", "seeds", "mask_format", "prior_file", "prior_radius", "prior_rest"})
)
def test_flipping_a_knob_changes_the_model(knob):
    kind = ROOM.knobs.model_fields[knob].annotation
    value = PAPER[knob]
    if kind is bool:
        other = not value
    elif typing.get_origin(kind) is typing.Literal:
        other = next(choice for choice in typing.get_args(kind) if choice != value)
    else:
        other = OTHER[knob]
    assert config(load({**PAPER, knob: other})) != config()


@pytest.mark.parametrize(("knob", "value"), [("prior_radius", 0.2), ("prior_rest", "cam"), ("prior", "file")])
def test_how_far_points_reach_changes_the_model_that_has_them(knob, value):
    marked = PAPER | {"prior": "points", "prior_file": "any.json"}
    same = config(load(marked | {knob: value})) == config(load(marked))
    assert same == (knob == "prior")  # a matter of the data steps
    assert knob == "prior" or config(load(PAPER | {knob: value})) == config()


@pytest.mark.parametrize("field", Sizes.model_fields)
def test_every_field_of_the_sizes_changes_the_model(field):
    default = getattr(Sizes(**SMALL), field)
    if isinstance(default, bool):
        other = not default
    elif isinstance(default, tuple):
        other = (*default, 2 * default[-1])
    elif isinstance(default, float):
        other = default / 2
    elif default is None:
        other = 2 * Sizes().finest_scale
    else:
        other = default - 1 if field == "roi_levels" else default + 1
    knobs = ROOM.preset("released")
    assert config(knobs, **{field: other}) != config(knobs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"neck_chanels": 3}, "did you mean 'neck_channels'"),
        ({"strides": 4}, "strides: expected a list, found int"),
        ({"neck_channels": "many"}, "neck_channels: is 'many'"),
        ({"neck_channels": 2.5}, "neck_channels: is 2.5"),
        ({"box_reg_pooled": 1}, "box_reg_pooled: is 1"),
        ({"roi_levels": 9}, "valid: 1 to 5"),
        ({"mask_channels": 0}, "mask_channels: is 0; valid: at least 1"),
        ({"nms_iou": 1.5}, "nms_iou: is 1.5; valid: at most 1"),
    ],
)
def test_bad_architectures_are_refused(overrides, message):
    with pytest.raises(ExperimentError, match=message):
        strict.check(Sizes, overrides, "profile")


def test_widths_that_cannot_be_summed_are_refused():
    with pytest.raises(ExperimentError, match="contrast_channels is 8 but neck_channels 16"):
        config(contrast_channels=8)
    assert config(ROOM.preset("paper", cl_join="concat"), contrast_channels=8)
    assert config(ROOM.preset("paper", cl_fusion="conv"), contrast_channels=8)


def test_the_methods_differ_in_what_enters_the_mask_head_and_nothing_else():
    heads = {method: config(method=method)["roi_head"] for method in METHODS}
    plain, cam = ({**heads[m], "mask_head": None} for m in ("mask_rcnn", "cam"))
    cam["bbox_head"] = {key: value for key, value in cam["bbox_head"].items() if key != "detach_classifier"}
    added = {"use_cam", "cam_frame", "cam_normalise", "detach_mask_cam"}
    assert cam.keys() - plain.keys() == added and plain.items() <= cam.items()
    full = {**heads["contrastmask"], "mask_head": None}
    assert {key for key in heads["cam"] if full[key] != {**heads["cam"], "mask_head": None}[key]} == {"type"}


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
