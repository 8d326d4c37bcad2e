"""Convert checkpoints between the authors' released code and this implementation.

The two differ in where the contrastive head hangs (below the mask head there, below the RoI head here) and in the last
projector layer (a linear layer there, a 1x1 convolution here).
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split


import re
from pathlib import Path

import torch
from mmcv import Config
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import files
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.shared.sizes import Sizes

# Released prefix -> ours; the first that fits counts.
PREFIXES = (
    ("roi_head.mask_head.fuseconv.", "roi_head.cl_head.fusion."),
    ("roi_head.mask_head.contrastive_head.", "roi_head.cl_head."),
    ("roi_head.mask_head.", "roi_head.mask_head."),
    ("roi_head.bbox_head.", "roi_head.bbox_head."),
    ("rpn_head.", "rpn_head."),
    ("neck.", "neck."),
    ("backbone.", "backbone."),
)
LAST_PROJECTOR_WEIGHT = re.compile(r"roi_head\.cl_head\.projector\.\d+\.weight")

THEIRS, OURS = "roi_head.mask_head.contrastive_head", "roi_head.cl_head"  # what no other model has

NUM_CLASSES = 80
FROZEN = {"frozen_stages": 1, "norm_eval": True, "style": "pytorch"}
BACKBONES = {
    "r50": {"type": "ResNet", "depth": 50},
    "r101": {"type": "ResNet", "depth": 101},
    "x50": {"type": "ResNeXt", "depth": 50, "groups": 32, "base_width": 4},
    "x101": {"type": "ResNeXt", "depth": 101, "groups": 64, "base_width": 4},
}


def our_key(key: str) -> str | None:
    """Return our name of a released parameter or buffer, None if it has no counterpart."""
    return next((ours + key[len(theirs) :] for theirs, ours in PREFIXES if key.startswith(theirs)), None)


def released_key(key: str) -> str | None:
    """Return the released name of one of our parameters or buffers, None if it has no counterpart."""
    return next((theirs + key[len(ours) :] for theirs, ours in PREFIXES if key.startswith(ours)), None)


def released_model(backbone: str, **knobs):
    """Build the detector of the released configuration, some knobs replaced; its weights are not set.

    Args:
        backbone: 'r50', 'r101', 'x50' or 'x101'.
    """
    return build_detector(Config({"model": released_config({**BACKBONES[backbone], **FROZEN}, **knobs)}).model)


def released_config(backbone: dict, sizes: Sizes | None = None, **knobs) -> dict:
    """Resolve the released configuration of a backbone, some knobs replaced, and make its types known.

    Args:
        backbone: MMDetection configuration.
        sizes: of the paper by default.
    """
    method = methods.method("contrastmask")
    chosen = method.preset("released", **knobs)
    methods.register("contrastmask", chosen)
    return method.model(chosen, sizes or Sizes(), backbone, NUM_CLASSES)


def renamed(state: dict) -> dict | None:
    """Give a state of the released code our names and shapes, one that was converted as it is; None for any other."""
    if any(key.startswith(f"{OURS}.") for key in state):
        return state
    if not any(key.startswith(f"{THEIRS}.") for key in state):
        return None
    return {
        ours: tensor[:, :, None, None] if LAST_PROJECTOR_WEIGHT.fullmatch(ours) and tensor.ndim == 2 else tensor
        for key, tensor in state.items()
        if (ours := our_key(key) or key)
    }


def classes() -> tuple[str, ...]:
    """The classes of the released checkpoints."""
    return label_set("coco").names


def configuration(state: dict, path: Path) -> dict:
    """The model configuration of a state in our names, by its backbone. Raises ExperimentError for an unknown one."""
    return configuration_of(_backbone(state, path))


def configuration_of(backbone: str) -> dict:
    """The model configuration of the released code with one of `BACKBONES`."""
    return released_config({**BACKBONES[backbone], **FROZEN})


def released_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that one of our tensors has in the released code."""
    return tuple(shape[:2] if LAST_PROJECTOR_WEIGHT.fullmatch(key) else shape)


def convert(path: Path, out: Path, reverse: bool = False) -> str:
    """Convert a checkpoint file, strictly: every key is mapped, or the error names those that are not.

    Args:
        path: file with a state dict, bare or under 'state_dict'.
        out: file to write; appears only when complete.
        reverse: from this implementation to the released code.

    Returns:
        The backbone that the file is of.

    Raises:
        ExperimentError: the file cannot be read, or its keys or shapes are not those of a known model.
    """
    state = _load(path)
    backbone = _backbone(state, path)
    with torch.device("meta"):
        model = released_model(backbone)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    theirs = {released_key(key): released_shape(key, shape) for key, shape in shapes.items()}
    if reverse:
        _compare(state, shapes, path, backbone)
        converted = {released_key(key): state[key].reshape(theirs[released_key(key)]).clone() for key in shapes}
    else:
        _compare(state, theirs, path, backbone)
        converted = {key: state[released_key(key)].reshape(shape).clone() for key, shape in shapes.items()}
    _save({"state_dict": converted, "meta": {} if reverse else {"CLASSES": classes()}}, Path(out))
    return backbone


def _load(path):
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ExperimentError(f"{path}: no such file") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExperimentError(f"{path}: cannot be read as a checkpoint of tensors alone ({reason})") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise ExperimentError(f"{path}: holds no state dict (names to tensors, bare or under 'state_dict')")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _backbone(state, path):
    """Tell the backbone from the number of blocks in its third stage and the groups of its first 3x3 convolution."""
    depth = 101 if "backbone.layer3.22.conv1.weight" in state else 50
    conv = state.get("backbone.layer1.0.conv2.weight")
    if conv is None or conv.ndim != 4:
        raise ExperimentError(
            f"{path}: no backbone.layer1.0.conv2.weight; expected a model with one of the backbones "
            f"{', '.join(BACKBONES)}"
        )
    groups = conv.shape[0] // conv.shape[1]
    for name, config in BACKBONES.items():
        if config["depth"] == depth and config.get("groups", 1) == groups:
            return name
    raise ExperimentError(f"{path}: backbone of depth {depth} with {groups} groups is none of {', '.join(BACKBONES)}")


def _compare(state, expected, path, backbone):
    problems = [f"not mapped: {key}" for key in state if key not in expected]
    problems += [f"missing: {key}" for key in expected if key not in state]
    problems += [
        f"{key}: shape {tuple(state[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    if problems:
        raise ExperimentError(f"{path}: does not fit the {backbone} model; " + "; ".join(problems))


def _save(checkpoint, out):
    with files.writing(out) as file:
        torch.save(checkpoint, file)
