"""From a profile to the learning rate and precision of a training."""

from dataclasses import replace

import pytest

from pipeline import methods
from pipeline.declaration import config, experiments
from pipeline.errors import ExperimentError

RUN = "mask_rcnn_r50_1x_nonvoc2voc"
OURS = "contrastmask_r50_1x_nonvoc2voc"
SCALE = {"recipe": "paper", "tau_easy": 0.45, "loss_similarity": "centred"}  # knobs of a profile: paper's but for two


def resolved(**training):
    """The optimisation of a COCO training whose profile has other values."""
    declared = experiments.load()
    full = declared.profiles["full"]
    profiles = declared.profiles | {"full": full | {"training": full["training"] | training}}
    return config.resolve(RUN, "coco2017", 0, replace(declared, profiles=profiles)).optimisation


@pytest.mark.parametrize(
    "batch, stated_for, lr, warmup",
    [(16, 16, 0.02, 500), (32, 16, 0.04, 250), (4, 16, 0.005, 2000), (4, None, 0.02, 500)],
)
def test_learning_rate_and_warmup_follow_the_batch_by_the_linear_rule(batch, stated_for, lr, warmup):
    optimisation = resolved(batch_size=batch, lr_batch_size=stated_for)
    assert optimisation["optimizer"]["lr"] == pytest.approx(lr)
    assert optimisation["warmup_iterations"] == warmup


@pytest.mark.parametrize("dataset", ["generated", "coco2017"])
def test_a_training_handed_on_as_text_is_the_same_training(dataset):
    declared = experiments.load()
    for name in declared.runs:
        job = config.resolve(name, dataset, 3, declared)
        assert config.Training.from_json(job.to_json()) == job
    assert config.Training.from_json(config.resolve_pretraining("r50", "generated").to_json()).method == "two_stage"


def test_a_run_of_the_other_paper_is_refused_in_one_line():
    with pytest.raises(ExperimentError, match="^unknown schedule of profile 'embedded_maps': '3x'; valid: 1x; "):
        config.resolve(OURS.replace("1x", "3x"), "scenes", 0)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"knobs": {}}', '{"knobs": {"sigma": 1}, "name": "x"}'])
def test_text_that_is_no_training_is_one_line(text):
    with pytest.raises(ExperimentError, match="not a training that this version wrote"):
        config.Training.from_json(text)


def loaded(scale=SCALE, **values):
    """The pinned knobs of ContrastMask with other values, at the scale of a profile."""
    room = methods.method("contrastmask")
    return room.load_knobs(room.pinned() | values, "mine.yaml", scale=scale)


def differing(first, second):
    first, second = first.model_dump(), second.model_dump()
    return {name for name in first if first[name] != second[name]}


def test_the_profile_stands_behind_the_word_recipe_alone():
    assert differing(loaded(), loaded(recipe="paper")) == {"tau_easy", "loss_similarity"}
    assert (loaded().tau_easy, loaded().loss_similarity) == (0.45, "centred")
    assert loaded(tau_easy=0.2).tau_easy == 0.2
    assert differing(loaded(scale=SCALE | {"loss_denominator": "plain"}), loaded()) == set(), "it is pinned"


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_a_recipe_that_is_named_is_the_recipe_whatever_the_profile_says(recipe):
    assert loaded(recipe=recipe) == loaded(recipe=recipe, scale=None)
    assert loaded(recipe=recipe).tau_easy == methods.method("contrastmask").preset(recipe).tau_easy


@pytest.mark.parametrize("dataset, points", [("coco_stuff_10k", (50, 100, 150)), ("scenes", (8, 16, 24))])
def test_what_a_row_overrides_has_its_stand_in_at_the_scale_of_a_profile(dataset, points):
    declared = experiments.load()
    runs = [declared.run(name) for name in ("simformer_j50_s1", "simformer_s1", "simformer_j150_s1")]
    assert tuple(config.resolve(run.name, dataset, 0).knobs.points for run in runs) == points
    other = replace(runs[0], overrides={"points": 40, "pairs": "self"})
    assert config.overrides(other, declared.profile(dataset)) == other.overrides, "no row of the paper has these"


@pytest.mark.parametrize("recipe", ["profile", "paper", "released"])
def test_what_depends_on_the_data_is_the_profile_s_under_every_recipe(recipe):
    """Published weights of ADE20K are other ones than of COCO-Stuff, J of 256 cells is no 100."""
    room = methods.method("simformer")

    def of(dataset):
        scale = experiments.load().profile(dataset)["knobs"]
        chosen = room.load_knobs(room.pinned() | {"recipe": recipe}, "mine.yaml", scale=scale)
        return chosen.complementary_weight, chosen.distillation_weight, chosen.points, chosen.backbone_rate

    assert of("ade20k") == (0.2, 0.5, 100, 0.1)
    assert of("coco_stuff_10k") == (0.15, 0.1, 100, 0.1)
    assert of("scenes") == (0.15, 4.0, 16, 1.0)


@pytest.mark.parametrize("scale", [None, {}])
def test_a_profile_that_says_nothing_means_the_released_recipe(scale):
    assert loaded(scale=scale) == loaded(recipe="released")
    assert differing(loaded(scale={"tau_easy": 0.45}), loaded(recipe="released")) == {"tau_easy"}


def test_pinned_runs_and_initial_weights_follow_the_profile_of_their_dataset():
    declared = experiments.load()
    profiles = declared.profiles | {"embedded": declared.profiles["embedded"] | {"knobs": SCALE}}
    scaled = replace(declared, profiles=profiles)
    knobs = config.resolve(OURS, "generated", 0, scaled).knobs
    assert (knobs.recipe, knobs.tau_easy) == ("paper", 0.45)
    assert config.resolve(OURS, "coco2017", 0, scaled).knobs == loaded(scale=None)
    assert config.resolve_pretraining("r50", "generated", scaled).knobs.recipe == "paper"


def test_a_bad_recipe_names_the_word_profile_among_the_valid_ones():
    with pytest.raises(ExperimentError, match="mine.yaml: knob recipe is 'x'; valid: paper, released, or `profile`$"):
        loaded(recipe="x")


def test_what_starts_from_nothing_trains_all_of_its_backbone():
    def frozen(training):
        return training.model["backbone"]["frozen_stages"], training.model["backbone"]["norm_eval"]

    run = "mask_rcnn_r50_1x_nonvoc2voc"
    declared = experiments.load()
    assert frozen(config.resolve(run, "generated", 0, declared)) == (3, True)
    key = methods.weights_key(methods.method(declared.run(run).method).detector, "r50")
    assert frozen(config.resolve_pretraining(key, "generated", declared)) == (-1, False)
    declared.profiles["embedded"]["initial_weights"] = {"kind": "random"}
    assert frozen(config.resolve(run, "generated", 0, declared)) == (-1, False)


def test_a_pretraining_takes_its_own_milestones():
    declared = experiments.load()
    recipe = declared.profiles["embedded"]["initial_weights"]
    key = methods.weights_key(methods.method("mask_rcnn").detector, "r50")
    assert config.resolve_pretraining(key, "generated", declared).schedule["milestones"] == recipe["milestones"] != []
    del recipe["milestones"]
    assert config.resolve_pretraining(key, "generated", declared).schedule["milestones"] == []
