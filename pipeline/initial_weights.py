"""The weights every run of a backbone starts from: runs/<dataset>/init/<backbone>.pth, keys as in the model.

Three kinds, chosen by the profile: `download` (ImageNet classifier, hash-checked), `pretrain` (a detector trained on
boxes and labels alone) and `random` (an empty file: the model's own initialisation).
"""

import logging

import torch

from pipeline import checkpoint, config, experiments, paths, training
from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.initial_weights")

MASK_HEAD = "roi_head.mask_head."
CLASSIFIER = "fc."


def prepare(backbone, dataset, tracker=None):
    """Write the initial weights of a backbone. Raises ExperimentError for an unknown backbone or a failed download."""
    declared = experiments.load()
    profile = declared.profile(dataset)
    experiments.lookup(profile["backbones"], backbone, "backbone")
    kind = profile["initial_weights"]["kind"]
    weights = {"download": _download, "pretrain": _pretrain, "random": _random}[kind](
        backbone, dataset, profile, tracker
    )
    target = paths.initial_weights(dataset, backbone)
    target.parent.mkdir(parents=True, exist_ok=True)
    training.save_atomically(checkpoint.content_of(weights, {}), target)
    logger.info("%s: %d tensors (%s)", target.relative_to(paths.ROOT), len(weights), kind)


def _random(backbone, dataset, profile, tracker):
    return {}


def _pretrain(backbone, dataset, profile, tracker):
    """Train on boxes; leave the untrained mask head out, so that every run initialises its own."""
    scratch = training.train(config.resolve_pretraining(backbone, dataset), tracker)
    weights = torch.load(scratch / "checkpoint.pth", map_location="cpu", weights_only=True)["state_dict"]
    return {key: value for key, value in weights.items() if not key.startswith(MASK_HEAD)}


def _download(backbone, dataset, profile, tracker):
    url = profile["initial_weights"][backbone]
    folder = paths.home() / "data" / "weights"
    try:
        weights = torch.hub.load_state_dict_from_url(
            url, model_dir=str(folder), map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no network, or a hash other than the one in the file name
        raise ExperimentError(f"{url}: {error}; on a machine without network put the file into {folder}") from None
    weights = weights.get("state_dict", weights)
    return {f"backbone.{key}": value for key, value in weights.items() if not key.startswith(CLASSIFIER)}
