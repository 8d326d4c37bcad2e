"""Put the weights that a run starts from into its model."""

import logging

from pipeline.artifacts import checkpoint
from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.training.starting_weights")

COUNTER = ".num_batches_tracked"  # files of older versions of torch lack them; nothing reads them


def load(model, path):
    """Load initial weights; parts of the model that the file has nothing of keep their own initialisation.

    Args:
        model: of any architecture; keys of the file are those of its state.
        path: as stage `pretrain` writes it.

    Raises:
        ExperimentError: the file is damaged, or holds something that has no place in the model or another shape there,
            or a part of the model only in part.
    """
    try:
        weights = checkpoint.read(path)["state_dict"]
    except ValueError as error:
        raise ExperimentError(f"{path}: damaged ({error}); run `dvc repro -s -f pretrain@{path.stem}`") from None
    expected = model.state_dict()
    if problem := _misfit(weights, expected):
        raise ExperimentError(f"{path}: {problem}; run `dvc repro -s -f pretrain@{path.stem}`")
    model.load_state_dict(weights, strict=False)
    fresh = len(expected.keys() - weights.keys())
    logger.info("loaded %d tensors from %s; %d start fresh", len(weights), path, fresh)


def _misfit(weights, expected):
    """Say what keeps weights from being those of a model or of whole parts of it, None if nothing does."""
    for key, value in weights.items():
        if key not in expected:
            return f"{key!r} has no place in the model"
        if value.shape != expected[key].shape:
            return f"{key!r} is {tuple(value.shape)}, in the model {tuple(expected[key].shape)}"
    given = {_part(key) for key in weights}
    for key in expected:
        if key not in weights and _part(key) in given and not key.endswith(COUNTER):
            return f"{key!r} is missing, while other tensors of {_part(key)!r} are there"
    return None


def _part(key):
    return key.rpartition(".")[0]
