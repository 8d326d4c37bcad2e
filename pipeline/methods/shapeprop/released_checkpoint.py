"""Convert checkpoints between the authors' code (ucbdrive/ShapeProp on maskrcnn-benchmark) and this implementation.

Three things are not mere names. Background is the authors' first class and MMDetection's last one, so rows of the two
classifiers turn around. Their box regressor has rows of background, which no loss and no detection reads, and they keep
the anchors, which are computed here: both stand in `meta` of a converted file for the way back, on which those rows of
a model that was trained here are zero. They keep no counter of a batch norm, which is zero.

Their weights want images with blue first, from 0 to 255 less a mean: the configuration of a converted file has a
backbone that turns ours into those. Some arithmetic around the weights is not theirs: their boxes are one pixel longer
(`x2 - x1 + 1`), anchors are rounded to pixels, batch norms of the backbone have no epsilon, and their means of images
are up to 0.9 lower.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import importlib
import re
from pathlib import Path

import torch
from mmcv import Config
from mmdet.models import build_detector

from pipeline import methods
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.shared.released_checkpoint import load_state, require_same, save
from pipeline.methods.shared.sizes import Sizes

LAYERS = range(8)  # of a stack, more than any has
# How the authors' names begin, and how ours do.
PAIRS = (
    ("backbone.body.stem.", "backbone."),
    ("backbone.body.layer", "backbone.layer"),
    *((f"backbone.fpn.fpn_inner{n + 1}.", f"neck.lateral_convs.{n}.conv.") for n in LAYERS),
    *((f"backbone.fpn.fpn_layer{n + 1}.", f"neck.fpn_convs.{n}.conv.") for n in LAYERS),
    ("rpn.head.conv.", "rpn_head.rpn_conv."),
    ("rpn.head.cls_logits.", "rpn_head.rpn_cls."),
    ("rpn.head.bbox_pred.", "rpn_head.rpn_reg."),
    ("roi_heads.box.feature_extractor.fc6.", "roi_head.bbox_head.shared_fcs.0."),
    ("roi_heads.box.feature_extractor.fc7.", "roi_head.bbox_head.shared_fcs.1."),
    ("roi_heads.box.predictor.cls_score.", "roi_head.bbox_head.fc_cls."),
    ("roi_heads.box.predictor.bbox_pred.", "roi_head.bbox_head.fc_reg."),
    *(
        (
            f"roi_heads.shapeprop.feature_extractor_{theirs}.shapeprop_feature{n + 1}.",
            f"roi_head.shape_head.{ours}_convs.{n}.conv.",
        )
        for theirs, ours in (("activating", "activation"), ("propagating", "propagation"))
        for n in LAYERS
    ),
    ("roi_heads.shapeprop.predictor.cls.", "roi_head.shape_head.class_maps."),
    ("roi_heads.shapeprop.propagation_weight_regressor.reg.", "roi_head.shape_head.weight_maps."),
    # Their layers are counted with the ReLUs between them.
    *((f"roi_heads.shapeprop.encoder.encoder.{2 * n}.", f"roi_head.shape_head.encoder.{n}.conv.") for n in LAYERS),
    *((f"roi_heads.shapeprop.decoder.decoder.{2 * n}.", f"roi_head.shape_head.decoder.{n}.conv.") for n in LAYERS),
    *(
        (f"roi_heads.mask.feature_extractor.encoder.{2 * n}.", f"roi_head.mask_head.shape_encoder.{n}.conv.")
        for n in LAYERS
    ),
    *((f"roi_heads.mask.feature_extractor.mask_fcn{n + 1}.", f"roi_head.mask_head.convs.{n}.conv.") for n in LAYERS),
    ("roi_heads.mask.predictor.conv5_mask.", "roi_head.mask_head.upsample."),
    ("roi_heads.mask.predictor.mask_fcn_logits.", "roi_head.mask_head.conv_logits."),
)
BACKGROUND_FIRST = re.compile(r"roi_head\.(bbox_head\.fc_cls|shape_head\.class_maps)\.(weight|bias)")
BOXES = re.compile(r"roi_head\.bbox_head\.fc_reg\.(weight|bias)")
COUNTER = "num_batches_tracked"

THEIRS, OURS = "roi_heads.shapeprop.", "roi_head.shape_head."  # what no other model has

NUM_CLASSES = 80
FROZEN = {"frozen_stages": 1, "norm_eval": True, "style": "caffe"}  # caffe: the stride is in the first 1x1 convolution
BACKBONES = {"r50": {"type": "BlueFirstResNet", "depth": 50}, "r101": {"type": "BlueFirstResNet", "depth": 101}}
MODULES = ("pipeline.methods.shared.blue_first_resnet",)  # of a converted file's configuration alone
ONLY_THEIRS = "only_theirs"  # in `meta`: what has no place in a model of ours
LAST_BLOCK = "backbone.layer3.22.conv1.weight"  # of a depth of 101


def our_key(key: str) -> str | None:
    """Return our name of one of the authors' parameters or buffers, None if it has no counterpart."""
    return next((ours + key[len(theirs) :] for theirs, ours in PAIRS if key.startswith(theirs)), None)


def released_key(key: str) -> str | None:
    """Return the authors' name of one of our parameters or buffers, None if it has no counterpart."""
    if key.endswith(COUNTER):
        return None
    # Later pairs first: all of the backbone begins with the name of its stem.
    return next((theirs + key[len(ours) :] for theirs, ours in reversed(PAIRS) if key.startswith(ours)), None)


def our_tensor(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Turn one of the authors' tensors into that of our name `key`."""
    if BACKGROUND_FIRST.fullmatch(key):
        return torch.cat([tensor[1:], tensor[:1]])
    return tensor[4:].clone() if BOXES.fullmatch(key) else tensor.clone()


def released_tensor(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Turn our tensor of name `key` into the authors'; what theirs has and ours has not is zero."""
    if BACKGROUND_FIRST.fullmatch(key):
        return torch.cat([tensor[-1:], tensor[:-1]])
    return torch.cat([tensor.new_zeros(4, *tensor.shape[1:]), tensor]) if BOXES.fullmatch(key) else tensor.clone()


def released_model(backbone: str, **knobs):
    """Build the detector of the authors' configuration, some knobs replaced; its weights are not set.

    Args:
        backbone: 'r50' or 'r101'.
    """
    return build_detector(Config({"model": configuration_of(backbone, **knobs)}).model)


def configuration_of(backbone: str, **knobs) -> dict:
    """The model configuration of the authors' code with one of `BACKBONES`, and make its types known."""
    method = methods.method("shapeprop")
    theirs = {"mask_loss_rois": "base_positives", "box_head": "fc", "settings": "authors"}
    chosen = method.preset("released", **theirs | knobs)
    methods.register("shapeprop", chosen)
    for module in MODULES:
        importlib.import_module(module)
    model = method.model(chosen, Sizes(), {**BACKBONES[backbone], **FROZEN}, NUM_CLASSES)
    # Theirs lie around the middle of a cell, as `anchors` has them.
    model["rpn_head"]["anchor_generator"]["center_offset"] = 0.5
    return model


def classes() -> tuple[str, ...]:
    """The classes of the authors' checkpoints."""
    return label_set("coco").names


def renamed(state: dict) -> dict | None:
    """Give a state of the authors' code our names and shapes, one that was converted as it is; None for any other."""
    if any(key.startswith(OURS) for key in state):
        return state
    if not any(key.startswith(THEIRS) for key in state):
        return None
    found = {ours: our_tensor(ours, tensor) for key, tensor in state.items() if (ours := our_key(key))}
    return found | _counters(found)


def configuration(state: dict, path: Path) -> dict:
    """The model configuration of a state in our names, by its backbone. Raises ExperimentError for an unknown one."""
    return configuration_of(_backbone(state, path))


def convert(path: Path, out: Path, reverse: bool = False) -> str:
    """Convert a checkpoint file, strictly: every key is mapped, or the error names those that are not.

    Args:
        path: file with a state dict, bare or under 'state_dict' or 'model'.
        out: file to write; appears only when complete.
        reverse: from this implementation to the authors' code.

    Returns:
        The backbone that the file is of.

    Raises:
        ExperimentError: the file cannot be read, or its keys or shapes are not those of a known model.
    """
    state, meta = load_state(path)
    if reverse:
        backbone = _backbone(state, path)
    else:
        backbone = _backbone({our_key(key): tensor for key, tensor in state.items()}, path)
    with torch.device("meta"):
        ours = released_model(backbone).state_dict()
    if reverse:
        require_same(state, {key: tuple(tensor.shape) for key, tensor in ours.items()}, path, backbone)
        converted = {released_key(key): released_tensor(key, state[key]) for key in ours if released_key(key)}
        converted |= anchors()
        for key, rows in meta.get(ONLY_THEIRS, {}).items():
            converted[key] = rows if key in anchors() else torch.cat([rows, converted[key][len(rows) :]])
        content = {"model": converted}  # which the authors' loader reads
    else:
        require_same(state, released_shapes(ours), path, backbone)
        converted = renamed(state)
        regressor = [key for key in state if BOXES.fullmatch(our_key(key) or "")]
        kept = {key: state[key][:4].clone() for key in regressor} | {key: state[key].clone() for key in anchors()}
        content = {"state_dict": converted, "meta": {"CLASSES": classes(), ONLY_THEIRS: kept}}
    save(content, Path(out))
    return backbone


def released_shapes(ours: dict) -> dict[str, tuple[int, ...]]:
    """Shapes by the authors' names of all that their model of our state `ours` holds."""
    shapes = {
        released_key(key): tuple(released_tensor(key, tensor).shape)
        for key, tensor in ours.items()
        if released_key(key)
    }
    return shapes | {key: tuple(tensor.shape) for key, tensor in anchors().items()}


def anchors() -> dict[str, torch.Tensor]:
    """The authors' anchors [3, 4] of each level around its first cell, rounded as there."""
    sizes = Sizes()
    made = {}
    for level, stride in enumerate(sizes.strides):
        boxes = []
        for ratio in sizes.anchor_ratios:
            width = round((stride * stride / ratio) ** 0.5)
            sides = torch.tensor([width, round(width * ratio)]) * sizes.anchor_scales[0]
            centre, half = (stride - 1) / 2, (sides - 1) / 2
            boxes.append(torch.cat([centre - half, centre + half]))
        made[f"rpn.anchor_generator.cell_anchors.{level}"] = torch.stack(boxes)
    return made


def _counters(found):
    """The counters of the batch norms in a state of our names: zero."""
    means = [key for key in found if key.endswith("running_mean")]
    return {key.replace("running_mean", COUNTER): torch.zeros((), dtype=torch.long) for key in means}


def _backbone(state, path):
    """Tell the backbone from the number of blocks in its third stage, of a state in our names."""
    if "backbone.layer1.0.conv2.weight" not in state:
        raise ExperimentError(f"{path}: no backbone is in it; expected one of {', '.join(BACKBONES)}")
    return "r101" if LAST_BLOCK in state else "r50"
