"""How often a training step makes the host wait for a GPU: a few times, whatever is in the images."""

import pytest

from benchmarks.host_reads import METHODS, computation_of, step_of, training_of
from pipeline.artifacts import paths
from pipeline.declaration import experiments, subsets
from pipeline.tasks.instances.split import split
from pipeline.training.journal import Journal
from tests.tiny import DATASET

MOST = 10


@pytest.fixture
def prepared(workspace, tmp_path):
    """The tiny root with the split that initial weights are trained on; gives a folder for a journal."""
    annotations = subsets.train(DATASET).annotations
    if not paths.split(DATASET, "boxes").exists():
        split(annotations, experiments.load().label_set(DATASET), "boxes", paths.split(DATASET, "boxes"))
    return tmp_path


def reads(method, images, folder, interval):
    training = training_of(method, images, log_interval=interval)
    computation = computation_of(training)
    return step_of(computation, Journal(training, folder, computation.steps))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_waits_a_few_times_whatever_the_number_of_images(method, prepared):
    one, several = (reads(method, images, prepared, interval=1) for images in (1, 6))
    assert 0 < several.count() <= MOST
    assert several.count() == one.count()
    assert several.count("backward") == 0
    assert several.count("after") == 1  # the log's


def test_a_step_that_is_not_logged_waits_for_none_of_its_numbers(prepared):
    assert reads("contrastmask", 2, prepared, interval=2).count("after") == 0
