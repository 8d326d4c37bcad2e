"""The resolved configuration of every row on COCO, leaf by leaf, against the values of code and text."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import methods
from pipeline.declaration import config, experiments
from pipeline.training import schedule
from pipeline.training.schedule import Schedule

SOURCES = YAML(typ="safe", pure=True).load(Path(__file__).with_name("released_configuration.yaml"))
RECIPES = {
    "pinned": {},
    "released": {"recipe": "released", "loss_denominator": "recipe"},
    "paper": {"recipe": "paper", "loss_denominator": "recipe"},
}
DECLARED = experiments.load()
DIRECTIONS = DECLARED.label_set("coco2017").directions
# Of tables with published numbers; others show what the sources do not have.
OF_PAPER = {run for table in DECLARED.tables.values() if table.get("published") for run in experiments.runs_of(table)}
OURS = ("mask_rcnn", "cam", "contrastmask")  # what the released code has; the others are compared by `golden`
ROWS = [name for name, run in DECLARED.runs.items() if run.pinned and name in OF_PAPER and run.method in OURS]


def resolved(name, recipe="pinned", seed=0):
    run = DECLARED.run(name)
    of_method = methods.method(run.method).knobs.model_fields
    chosen = {knob: value for knob, value in RECIPES[recipe].items() if knob in of_method}
    run = replace(run, overrides=chosen | (run.overrides or {}))
    return config.resolve(name, "coco2017", seed, replace(DECLARED, runs=DECLARED.runs | {name: run}))


def leaves(value, path=""):
    """Path -> value of nested dictionaries; lists of numbers and names are values."""
    if not isinstance(value, dict):
        return {
            path: [list(item) if isinstance(item, tuple) else item for item in value]
            if isinstance(value, (list, tuple))
            else value
        }
    found = {}
    for key, item in value.items():
        found |= leaves(item, f"{path}.{key}" if path else key)
    return found


def leaves_of_steps(steps, subset):
    """Leaves of a data pipeline by the type of the step; steps inside of a step come after it."""
    flat = [inner for step in steps for inner in (step, *step.get("transforms", ()))]
    found = {f"{subset}.steps": [step["type"] for step in flat]}
    for step in flat:
        options = {key: value for key, value in step.items() if key not in ("type", "transforms")}
        found |= {f"{subset}.{step['type']}.{key}": value for key, value in leaves(options).items() if options}
    return found


def expected(section, name, recipe):
    """The values of a section of the sources for a row under a recipe."""
    run = DECLARED.run(name)
    wanted = {"pinned": "released"}.get(recipe, recipe)

    def chosen(value):
        if not isinstance(value, dict):
            return value
        return next(
            chosen(value[key]) for key in (recipe, wanted, run.schedule, run.backbone, run.method) if key in value
        )

    values = {path: chosen(value) for path, value in SOURCES[section].items()}
    if section == "cl_head":
        values |= SOURCES["rows"].get(name, {})
    if section == "data" and name in SOURCES["rows"] and SOURCES["rows"][name].get("supervision") == "oracle":
        values["train.steps"] = [
            after
            for step in values["train.steps"]
            for after in {
                "LoadPartialAnnotations": (step, "LoadPriorMasks"),
                "FormatPartialBundle": (step, "FormatPriorMasks"),
            }.get(step, (step,))
        ]
        values["train.Collect.keys"] = [*values["train.Collect.keys"], "gt_prior_masks"]
        values["train.LoadPriorMasks.dataset"] = "coco2017"
        values["train.LoadPriorMasks.poly2mask"] = values["train.LoadPartialAnnotations.poly2mask"]
    return {path: value for path, value in values.items() if value != "absent"}


def compare(got, wanted):
    differing = {
        path: (got.get(path, "absent"), wanted.get(path, "absent"))
        for path in got.keys() | wanted.keys()
        if got.get(path, "absent") != wanted.get(path, "absent")
    }
    assert not differing, "(resolved, source) by path"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ROWS)
def test_every_leaf_of_every_row_is_that_of_the_sources(name, recipe):
    run, row = DECLARED.run(name), resolved(name, recipe)
    model = dict(row.model)
    model["roi_head"] = dict(model["roi_head"])
    cl_head = model["roi_head"].pop("cl_head", None)
    compare(leaves(model), expected("model", name, recipe))
    assert (cl_head is not None) == (run.method == "contrastmask")
    if cl_head:
        compare(leaves(cl_head), expected("cl_head", name, recipe))
    data = dict(row.data)
    steps = leaves_of_steps(data.pop("train"), "train") | leaves_of_steps(data.pop("test"), "test")
    compare(steps | data, expected("data", name, recipe))
    compare(leaves(row.optimisation), expected("optimisation", name, recipe))
    compare(leaves(row.schedule), expected("schedule", name, recipe))


@pytest.mark.parametrize("name", ROWS)
def test_the_schedule_in_iterations_is_that_of_the_sources(name):
    got = asdict(Schedule.of(resolved(name), 10, 1)) | {"warmup_ratio": schedule.WARMUP_RATIO}
    compare(leaves(got), expected("iterations", name, "pinned"))


def test_a_step_in_several_iterations_keeps_its_schedule():
    """Half as many GPUs: twice the iterations of everything that is counted in iterations."""
    given = Schedule.of(resolved("mask_rcnn_r50_1x_nonvoc2voc"), 20, 2)
    assert (given.milestones, given.iterations, given.warmup) == ((160, 220), 240, 1000)


@pytest.mark.parametrize("name", ROWS)
def test_seeds_change_the_seed_alone_and_every_row_starts_from_weights(name):
    first, second = (asdict(resolved(name, seed=seed)) for seed in (0, 1))
    assert {key for key in first if first[key] != second[key]} == {"seed"} and second["seed"] == 1
    assert first["initial_weights"] == DECLARED.run(name).backbone


def test_initial_weights_are_those_of_the_sources():
    compare(DECLARED.profile("coco2017")["initial_weights"], SOURCES["initial_weights"])


def test_rows_of_the_sources_are_the_rows_that_override_knobs():
    assert set(SOURCES["rows"]) == {name for name in ROWS if DECLARED.run(name).overrides}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_its_name_says(name):
    run = DECLARED.run(name)
    words = name.split("_")
    assert words[0] == ("mask" if run.method == "mask_rcnn" else run.method)
    if not run.overrides:
        method = run.method.split("_")
        assert words == [*method, run.backbone, run.schedule, run.direction]
    assert run.direction == (words[-1] if words[-1] in DIRECTIONS else "nonvoc2voc")


def test_directions_and_groups():
    """Spec section 1: nonvoc2voc has masks of the 60 nonvoc categories and is scored on the 20 of VOC."""
    assert DIRECTIONS["nonvoc2voc"] == {"base": "nonvoc", "novel": "voc"}
    assert DIRECTIONS["voc2nonvoc"] == {"base": "voc", "novel": "nonvoc"}
    assert DIRECTIONS["boxes"] == {"base": "none", "novel": "all"}


@pytest.mark.parametrize("name", ROWS)
def test_the_small_profiles_follow_the_recipe_too(name):
    run, row = DECLARED.run(name), config.resolve(name, "generated", 0, DECLARED)
    assert row.data["train"][1]["poly2mask"] is (run.schedule == "1x")
    if run.method == "contrastmask":
        assert row.model["roi_head"]["lambda_epoch_passes"] == {"1x": 1, "3x": 3}[run.schedule]
    assert row.model["roi_head"]["bbox_head"]["init"] == "xavier"
