"""The weights that runs start from: runs/<dataset>/init/<key>.pth, one for each detector and backbone.

Three kinds, chosen by the profile: `download` (ImageNet classifier, hash-checked), `pretrain` (a detector trained on
boxes and labels alone, its backbone before that on objects cut out by their boxes) and `random` (an empty file: the
model's own initialisation).
"""

from pipeline import compat  # noqa: F401  # isort: skip  before anything that imports torchvision

import hashlib
import logging
import re
from pathlib import Path
from urllib.parse import urlsplit

import torch
from mmdet.models import build_backbone

from pipeline import methods
from pipeline.artifacts import checkpoint, paths
from pipeline.declaration import config, experiments
from pipeline.errors import ExperimentError
from pipeline.hardware import use_device
from pipeline.tasks.instances.object_crops import object_crops
from pipeline.training import loop, object_classifier

logger = logging.getLogger("pipeline.training.initial_weights")

CLASSIFIER = "fc."
HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # how torch.hub names files: the first digits of their SHA-256
COUNTER = ".num_batches_tracked"  # files of older versions of torch lack them; nothing reads them


def prepare(key, dataset):
    """Write initial weights. Raises ExperimentError for an unknown key (`methods.weights_key`) or a failed download."""
    declared = experiments.load()
    profile = declared.profile(dataset)
    kind = profile["initial_weights"]["kind"]
    weights = {"download": _download, "pretrain": _pretrain, "random": _random}[kind](key, dataset, profile)
    target = paths.initial_weights(dataset, key)
    checkpoint.write(target, weights, {})
    logger.info("%s: %d tensors (%s)", target.relative_to(paths.ROOT), len(weights), kind)


def _random(key, dataset, profile):
    return {}


def _pretrain(key, dataset, profile):
    """Train the detector alone: what a run's model has beside it starts fresh."""
    training = config.resolve_pretraining(key, dataset)
    if training.initial_weights:
        _classify(training, profile)
    scratch = loop.train(training)
    return torch.load(scratch / "checkpoint.pth", map_location="cpu", weights_only=True)["state_dict"]


def _classify(training, profile):
    """Train the backbone of a detector to name objects, which that starts from."""
    recipe = profile["initial_weights"]["classifier"]
    crops, labels = object_crops(training.dataset, training.split, recipe["crop_size"])
    logger.info("%s: %d objects of %d categories", training.name, len(labels), len(labels.unique()))
    backbone = training.model["backbone"]
    weights = object_classifier.train(backbone, crops, labels, recipe, training.seed, use_device())
    checkpoint.write(paths.initial_weights(training.dataset, training.initial_weights), weights, {})


def _download(key, dataset, profile):
    """Fetch the file unless it is there; in either case its hash, names, shapes and values are checked."""
    _, backbone = methods.of_weights(key, profile["backbones"])
    url = profile["initial_weights"][backbone]
    folder = paths.home() / "data" / "weights"
    file = folder / Path(urlsplit(url).path).name
    remedy = f"delete it and run `dvc repro pretrain@{key}`, or put the file of {url} there"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except (OSError, RuntimeError) as error:  # no network
            raise ExperimentError(f"{url}: {error}; on a machine without network put the file into {folder}") from None
    named = HASH.search(file.name)
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ExperimentError(f"{file}: {error.strerror or error}; {remedy}") from None
    if named and not found.startswith(named[1]):
        raise ExperimentError(f"{file}: its SHA-256 starts with {found[:8]}, its name says {named[1]}; {remedy}")
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExperimentError(f"{file}: cannot be read as weights ({reason}); {remedy}") from None
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else {}
    weights = weights if isinstance(weights, dict) else {}
    weights = {key: value for key, value in weights.items() if not str(key).startswith(CLASSIFIER)}
    if problem := _misfit(weights, profile["backbones"][backbone]):
        raise ExperimentError(f"{file}: {problem}; {remedy}")
    return {f"backbone.{key}": value for key, value in weights.items()}


def _misfit(weights, backbone):
    """Say what keeps weights from being those of a backbone, None if they are: names, shapes, finite values."""
    with torch.device("meta"):
        expected = build_backbone(dict(backbone)).state_dict()
    missing = [key for key in expected if key not in weights and not key.endswith(COUNTER)]
    if missing:
        return f"{len(missing)} of {len(expected)} tensors of the backbone are missing, such as {missing[0]!r}"
    if strange := [key for key in weights if key not in expected]:
        return f"{strange[0]!r} is no tensor of the backbone"
    for key, value in weights.items():
        if not isinstance(value, torch.Tensor) or value.shape != expected[key].shape:
            return f"{key!r} is {tuple(getattr(value, 'shape', ()))}, expected {tuple(expected[key].shape)}"
        if not torch.isfinite(value).all():
            return f"{key!r} holds a value that is not finite"
    return None
