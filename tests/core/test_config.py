"""From a profile to the learning rate and precision of a training."""

from dataclasses import replace

import pytest

from pipeline.declaration import config, experiments
from pipeline.errors import ExperimentError

RUN = "mask_rcnn_r50_1x_nonvoc2voc"


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


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"knobs": {}}', '{"knobs": {"sigma": 1}, "name": "x"}'])
def test_text_that_is_no_training_is_one_line(text):
    with pytest.raises(ExperimentError, match="not a training that this version wrote"):
        config.Training.from_json(text)
