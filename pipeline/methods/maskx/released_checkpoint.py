"""Convert box and mask head between Mask^X R-CNN's released code (on Detectron, Caffe2) and this implementation.

The released blobs have the background first, ours have it last; the released regressor has rows for it, which nothing
reads: they stand in the `meta` of a converted file. Files of Detectron are pickles, which can run code and are not
read: what is converted are its blobs in a file of torch. Backbone, pyramid and RPN are those of Detectron and are not
part of it.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import importlib
import re
from functools import cache
from pathlib import Path

import torch
from mmcv import Config, ConfigDict
from mmdet.models import build_detector, build_head

from pipeline import methods
from pipeline.declaration.label_sets import label_set
from pipeline.methods.shared.released_checkpoint import load_state, require_same, save
from pipeline.methods.shared.sizes import Sizes

# Ours -> released, both without the end: `weight` and `w`, `bias` and `b`.
NAMES = (
    (r"bbox_head\.shared_fcs\.(\d)", lambda m: f"fc{int(m[1]) + 6}"),
    (r"bbox_head\.fc_cls", lambda m: "cls_score"),
    (r"bbox_head\.fc_reg", lambda m: "bbox_pred"),
    (r"mask_head\.convs\.(\d+)\.conv", lambda m: f"_[mask]_fcn{int(m[1]) + 1}"),
    (r"mask_head\.upsample", lambda m: "conv5_mask"),
    (r"mask_head\.mlp\.0", lambda m: "mask_mlp_logits_raw"),
)
TRANSFER = re.compile(r"mask_head\.transfer\.(\d+)")
LAST = "mask_fcn_logits_w_flat"
PLACE = "roi_head."
ENDS = {"weight": "w", "bias": "b"}
CLASSIFIER, REGRESSOR = "cls_score", "bbox_pred"

NUM_CLASSES = 80
BACKBONE = "r50"
BACKBONES = {
    "r50": {"type": "BlueFirstResNet", "depth": 50, "frozen_stages": 1, "norm_eval": True, "style": "caffe"},
}
MODULES = ("pipeline.methods.shared.blue_first_resnet",)  # of a converted file's configuration alone


def released_key(key: str, transfer_layers: int = 2) -> str | None:
    """Return the released blob of one of our parameters below `roi_head.`, None if it has no counterpart.

    Args:
        transfer_layers: layers of the weight transfer, the last of which has a name of its own.
    """
    name, _, end = key.removeprefix(PLACE).rpartition(".")
    if end not in ENDS:
        return None
    found = next((blob(match) for pattern, blob in NAMES if (match := re.fullmatch(pattern, name))), None)
    if match := TRANSFER.fullmatch(name):
        number = int(match[1]) // 2 + 1  # an activation stands between two layers
        found = LAST if number == transfer_layers else f"bbox2mask_mlp_l{number}"
    return found and f"{found}_{ENDS[end]}"


def our_key(blob: str) -> str | None:
    """Return our name of a released blob, None if it has no counterpart."""
    return {released_key(key): key for key in our_shapes()}.get(blob)


def released_config(backbone: str = BACKBONE) -> dict:
    """Resolve the released configuration with one of `BACKBONES`, and make its types known."""
    method = methods.method("maskx")
    knobs = method.preset("released", settings="authors")  # RoIAlign as they have it
    methods.register("maskx", knobs)
    for module in MODULES:
        importlib.import_module(module)
    return method.model(knobs, Sizes(), BACKBONES[backbone], NUM_CLASSES)


def released_model(backbone: str = BACKBONE):
    """Build the detector of the released configuration; its weights are not set."""
    return build_detector(Config({"model": released_config(backbone)}).model)


@cache
def our_shapes() -> dict:
    """Our name -> shape of every parameter of the RoI head."""
    config = released_config()
    parts = {"train_cfg": config["train_cfg"]["rcnn"], "test_cfg": config["test_cfg"]["rcnn"]}
    with torch.device("meta"):
        state = build_head(ConfigDict(config["roi_head"] | parts)).state_dict()
    return {PLACE + key: tuple(tensor.shape) for key, tensor in state.items()}


def released_shapes() -> dict:
    """The same by released name."""
    shapes = {released_key(key): shape for key, shape in our_shapes().items()}
    for blob in shapes:
        if blob.startswith(REGRESSOR):
            shapes[blob] = (shapes[blob][0] + 4, *shapes[blob][1:])
    return shapes


def convert(path: Path, out: Path, reverse: bool = False) -> str:
    """Convert a file of both heads, strictly: every blob is mapped, or the error names those that are not.

    Args:
        path: file with names and tensors, bare or under 'state_dict' or 'model'; of ours other parts are passed over.
        out: file to write; appears only when complete.
        reverse: from this implementation to the released names.

    Returns:
        The backbone of the published heads; they do not tell it themselves.

    Raises:
        ExperimentError: the file cannot be read, or its names or shapes are not those of the heads.
    """
    state, meta = load_state(path)
    if reverse:
        state = {key: tensor for key, tensor in state.items() if key.startswith(PLACE)}
        require_same(state, our_shapes(), path, "Mask^X R-CNN")
        background = meta.get("background_boxes", {})
        save({"model": {released_key(key): _released(key, tensor, background) for key, tensor in state.items()}}, out)
    else:
        require_same(state, released_shapes(), path, "Mask^X R-CNN")
        background = {blob: tensor[:4].clone() for blob, tensor in state.items() if blob.startswith(REGRESSOR)}
        save({"state_dict": _renamed(state), "meta": {"CLASSES": classes(), "background_boxes": background}}, out)
    return BACKBONE


def renamed(state: dict) -> dict | None:
    """Give blobs of the released heads our names, a state that was converted as it is; None for any other."""
    if f"{PLACE}mask_head.transfer.0.weight" in state:
        return state
    return _renamed(state) if f"{LAST}_w" in state else None


def classes() -> tuple[str, ...]:
    """The classes of the released checkpoints."""
    return label_set("coco").names


def configuration(state: dict, path: Path) -> dict:
    """The model configuration of a state in our names."""
    return configuration_of(BACKBONE)


def configuration_of(backbone: str) -> dict:
    """The model configuration of the released code with one of `BACKBONES`."""
    return released_config(backbone)


def _renamed(state):
    found = {}
    for blob, tensor in state.items():
        if blob.startswith(CLASSIFIER):
            tensor = tensor.roll(-1, 0)
        elif blob.startswith(REGRESSOR):
            tensor = tensor[4:].clone()
        found[our_key(blob) or blob] = tensor
    return found


def _released(key, tensor, background):
    blob = released_key(key)
    if blob.startswith(CLASSIFIER):
        return tensor.roll(1, 0)
    if blob.startswith(REGRESSOR):
        return torch.cat([background.get(blob, torch.zeros_like(tensor[:4])), tensor])
    return tensor.clone()
