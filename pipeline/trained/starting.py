"""Start from a trained detector: initial weights of the kind `checkpoint`, and what a training takes of them.

runs/<dataset>/init/<key>.pth then holds the whole detector, in this project's names: methods that start from it have
different heads. What fits one is chosen when it trains, and lies in its scratch folder.
"""

import logging

import torch

from pipeline import methods
from pipeline.artifacts import checkpoint, paths
from pipeline.declaration import config, experiments
from pipeline.errors import ExperimentError
from pipeline.trained import fitting, reading

logger = logging.getLogger("pipeline.trained.starting")

KIND = "checkpoint"
FITTED = "initial_weights.pth"  # in the scratch folder of a training


def prepare(key, dataset):
    """Write the whole detector that a data set's runs start from, in this project's names.

    Args:
        key: of the weights, `methods.weights_key`.
        dataset: whose initial weights are of this kind, `starts`.

    Raises:
        ExperimentError: the file is not the declared one, no checkpoint, or of another architecture.
    """
    trained = declared_file(experiments.load().profile(dataset)["initial_weights"])
    require_backbone(trained, against(trained, config.resolve_detector(key, dataset), dataset), key)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in trained.state.items()}
    if name := next((name for name, value in weights.items() if not torch.isfinite(value).all()), None):
        raise ExperimentError(f"{trained.path}: {name!r} holds a value that is not finite; start from another file")
    if trained.classes is None:
        logger.warning(
            "%s names no classes: those of %s are taken for its own, if they are as many", trained.path, dataset
        )
    target = paths.initial_weights(dataset, key)
    checkpoint.write(target, weights, {"CLASSES": list(trained.classes)} if trained.classes else {})
    logger.info(
        "%s: %d tensors of %s (%s); what each run takes is said when it trains",
        target.relative_to(paths.ROOT),
        len(weights),
        trained.path,
        trained.origin,
    )


def starts(dataset):
    """Whether the runs on a data set start from a trained detector."""
    return experiments.load().profile(dataset)["initial_weights"]["kind"] == KIND


def declared_file(source):
    """The `reading.Checkpoint` that initial weights of this kind name.

    Raises:
        ExperimentError: there is none, or its content is not the one that was declared.
    """
    path = file_of(source)
    found = reading.sha256(path)
    if found != source["sha256"].lower():
        raise ExperimentError(
            f"{path}: its SHA-256 is {found}, initial_weights.sha256 is {source['sha256']}; "
            "bring the declared file back, or declare this one"
        )
    return reading.read(path)


def file_of(source):
    """The path of a declared checkpoint; a relative one is below `paths.home`."""
    return paths.home().joinpath(source["file"]).expanduser()


def declaration(path):
    """How a file is declared as initial weights, as YAML in one line."""
    whole, home = path.resolve(), paths.home()
    shown = whole.relative_to(home) if whole.is_relative_to(home) else whole
    return f'{{kind: checkpoint, file: "{shown}", sha256: {reading.sha256(path)}}}'


def against(trained, training, dataset):
    """The `fitting.Fit` of a checkpoint and the model of a training on a data set."""
    methods.register(training.method, training.knobs)
    expected, of_classes = fitting.shapes(training.model)
    names = experiments.load().label_set(dataset).names
    return fitting.fit(trained.state, expected, of_classes, trained.classes in (None, names))


def require_backbone(trained, fit, key):
    """Refuse a checkpoint of which nothing fits, or whose backbone is another one."""
    if not fit.taken:
        first = next(iter(trained.state))
        raise ExperimentError(
            f"{trained.path}: none of its {len(trained.state)} tensors, such as {first!r}, fits the detector of {key}; "
            "start from a Faster or Mask R-CNN with a feature pyramid"
        )
    if misfits := [name for name in fit.fresh if name.startswith("backbone.")]:
        raise ExperimentError(
            f"{trained.path}: of another architecture: {len(misfits)} tensors of the backbone of {key} do not fit, "
            f"such as {misfits[0]!r} ({fit.fresh[misfits[0]]}); start from a file of that backbone, or take a run or "
            "a profile with the file's"
        )


def fit(training, scratch):
    """Write what a training takes of the trained detector that it starts from, and say what it is.

    Args:
        training: pipeline.declaration.config.Training with `fitted`.
        scratch: its folder.
    """
    path = paths.initial_weights(training.dataset, training.initial_weights)
    try:
        content = checkpoint.read(path)
    except ValueError as error:
        make = f"dvc repro -s -f pretrain@{path.stem}"
        raise ExperimentError(f"{path}: damaged ({error}); run `{make}`") from None
    trained = reading.Checkpoint(path, content["state_dict"], dict(content["meta"]), reading.OWN, None)
    fit = against(trained, training, training.dataset)
    logger.info("%s starts from %s:\n%s", training.name, path, fit.table())
    checkpoint.write(scratch / FITTED, fit.taken, {})
