"""The two parts of a declared dataset: training and validation images with their annotations."""

from pathlib import Path
from typing import NamedTuple

from pipeline.artifacts import paths
from pipeline.declaration import experiments, schema

PARTS = ("train", "validation")  # columns of a dataset's entry that name its subsets


class Subset(NamedTuple):
    name: str  # of its folder of images, such as `train2017`
    annotations: Path
    images: Path


def names(entry):
    """Names of the training and of the validation subset of a dataset's entry."""
    return tuple(entry[part] for part in PARTS)


def train(dataset):
    """The training images of a dataset. Raises ExperimentError if it is not declared."""
    return _subset(dataset, "train")


def validation(dataset):
    """The validation images of a dataset. Raises ExperimentError if it is not declared."""
    return _subset(dataset, "validation")


def _subset(dataset, part):
    entry = experiments.load().dataset(dataset)
    name = entry[part]
    annotations = paths.label_maps if entry["kind"] in schema.OF_MAPS else paths.annotations
    return Subset(name, annotations(dataset, name), paths.images(dataset, name))
