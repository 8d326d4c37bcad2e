"""Convert checkpoints between OPMask's released code (on Detectron2) and this implementation.

Names differ, shapes do not. Detectron2 keeps the anchors as buffers, which are no weights here: they stand in the
`meta` of a converted file, and are computed where it has none. Its frozen norms count no batches, ours do.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import re
from functools import cache
from pathlib import Path

import torch
from mmcv import Config
from mmdet.core.anchor import build_prior_generator
from mmdet.models import build_detector

from pipeline import methods
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.shared.released_checkpoint import load_state, require_same, save
from pipeline.methods.shared.sizes import Sizes

# Ours -> released; numbers of layers count from another start.
NAMES = (
    (r"backbone\.conv1\.weight", lambda m: "backbone.bottom_up.stem.conv1.weight"),
    (r"backbone\.bn1\.(\w+)", lambda m: f"backbone.bottom_up.stem.conv1.norm.{m[1]}"),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.weight", lambda m: f"{_block(m)}.conv{m[3]}.weight"),
    (r"backbone\.layer(\d)\.(\d+)\.bn(\d)\.(\w+)", lambda m: f"{_block(m)}.conv{m[3]}.norm.{m[4]}"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.0\.weight", lambda m: f"{_block(m)}.shortcut.weight"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.1\.(\w+)", lambda m: f"{_block(m)}.shortcut.norm.{m[3]}"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}.{m[2]}"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", lambda m: f"backbone.fpn_output{int(m[1]) + 2}.{m[2]}"),
    (r"rpn_head\.rpn_conv\.(\w+)", lambda m: f"proposal_generator.rpn_head.conv.{m[1]}"),
    (r"rpn_head\.rpn_cls\.(\w+)", lambda m: f"proposal_generator.rpn_head.objectness_logits.{m[1]}"),
    (r"rpn_head\.rpn_reg\.(\w+)", lambda m: f"proposal_generator.rpn_head.anchor_deltas.{m[1]}"),
    (r"roi_head\.bbox_head\.shared_convs\.(\d+)\.(conv|bn)\.(\w+)", lambda m: _layer("box_head.conv", m)),
    (r"roi_head\.bbox_head\.fc_cls\.(\w+)", lambda m: f"roi_heads.box_head.cls_score.{m[1]}"),
    (r"roi_head\.bbox_head\.fc_reg\.(\w+)", lambda m: f"roi_heads.box_head.bbox_pred.{m[1]}"),
    (r"roi_head\.mask_head\.convs\.(\d+)\.(conv|bn)\.(\w+)", lambda m: _layer("mask_head.mask_down", m)),
    (r"roi_head\.mask_head\.upsample\.(\w+)", lambda m: f"roi_heads.mask_head.mask_up1.{m[1]}"),
    (r"roi_head\.mask_head\.conv_logits\.(\w+)", lambda m: f"roi_heads.mask_head.predictor.{m[1]}"),
)
COUNTED_HERE_ALONE = re.compile(r"backbone\..*\.num_batches_tracked")
ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
MINE = ("roi_head.mask_head.convs.0.bn.weight", "roi_head.bbox_head.shared_convs.0.bn.weight")
THEIRS = "roi_heads.mask_head.mask_down1.weight"  # what no other model has

NUM_CLASSES = 80
BACKBONES = {
    name: {
        "type": "BlueFirstResNet",
        "depth": depth,
        "frozen_stages": 1,
        "norm_cfg": {"type": "BN", "requires_grad": False},
        "norm_eval": True,
        "style": "caffe",
    }
    for name, depth in {"r50": 50, "r101": 101}.items()
}


def _block(match):
    return f"backbone.bottom_up.res{int(match[1]) + 1}.{match[2]}"


def _layer(name, match):
    norm = "norm." if match[2] == "bn" else ""
    return f"roi_heads.{name}{int(match[1]) + 1}.{norm}{match[3]}"


def released_key(key: str) -> str | None:
    """Return the released name of one of our parameters or buffers, None if it has no counterpart."""
    if COUNTED_HERE_ALONE.fullmatch(key):
        return None
    return next((name(match) for pattern, name in NAMES if (match := re.fullmatch(pattern, key))), None)


def our_key(key: str) -> str | None:
    """Return our name of a released parameter or buffer, None if it has no counterpart."""
    return _our_names().get(key)


def released_config(backbone: str) -> dict:
    """Resolve the released configuration with one of `BACKBONES`, and make its types known."""
    method = methods.method("opmask")
    knobs = method.preset("released")
    methods.register("opmask", knobs)
    return method.model(knobs, Sizes(), BACKBONES[backbone], NUM_CLASSES)


def released_model(backbone: str):
    """Build the detector of the released configuration; its weights are not set."""
    return build_detector(Config({"model": released_config(backbone)}).model)


@cache
def our_shapes(backbone: str) -> dict:
    """Our name -> shape of every parameter and buffer with one of `BACKBONES`."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in released_model(backbone).state_dict().items()}


def released_shapes(backbone: str) -> dict:
    """The same by released name, anchors included."""
    shapes = {theirs: shape for key, shape in our_shapes(backbone).items() if (theirs := released_key(key))}
    return shapes | {key: tuple(anchors.shape) for key, anchors in _anchors().items()}


def convert(path: Path, out: Path, reverse: bool = False) -> str:
    """Convert a checkpoint file, strictly: every key is mapped, or the error names those that are not.

    Args:
        path: file with a state dict, bare or under 'state_dict' or 'model'.
        out: file to write; appears only when complete.
        reverse: from this implementation to the released code.

    Returns:
        The backbone that the file is of.

    Raises:
        ExperimentError: the file cannot be read, or its keys or shapes are not those of a known model.
    """
    state, meta = load_state(path)
    backbone = _backbone(state, path)
    if reverse:
        require_same(state, our_shapes(backbone), path, backbone)
        converted = {theirs: tensor.clone() for key, tensor in state.items() if (theirs := released_key(key))}
        kept = {ANCHORS + str(level): torch.tensor(rows) for level, rows in enumerate(meta.get("cell_anchors", ()))}
        save({"model": converted | (kept or _anchors())}, out)
        return backbone
    require_same(state, released_shapes(backbone), path, backbone)
    anchors = [state[key].tolist() for key in _anchors()]
    meta = {"CLASSES": classes(), "cell_anchors": anchors}
    save({"state_dict": _renamed(state, backbone), "meta": meta}, out)
    return backbone


def renamed(state: dict) -> dict | None:
    """Give a state of the released code our names, one that was converted as it is; None for any other."""
    if all(key in state for key in MINE) and "roi_head.bbox_head.shared_convs.1.conv.weight" in state:
        first, second = (state[f"roi_head.bbox_head.shared_convs.{layer}.conv.weight"] for layer in (0, 1))
        return state if first.shape[0] != second.shape[0] else None
    if THEIRS not in state:
        return None
    return _renamed(state, _backbone(state, Path(THEIRS)))


def classes() -> tuple[str, ...]:
    """The classes of the released checkpoints."""
    return label_set("coco").names


def configuration(state: dict, path: Path) -> dict:
    """The model configuration of a state in our names, by its backbone. Raises ExperimentError for an unknown one."""
    return configuration_of(_backbone(state, path))


def configuration_of(backbone: str) -> dict:
    """The model configuration of the released code with one of `BACKBONES`."""
    return released_config(backbone)


def _renamed(state, backbone):
    """A released state in our names; what the file lacks and we count is zero, what it has too much keeps its name."""
    names = {released_key(key): key for key in our_shapes(backbone)}
    found = {names.get(key, key): tensor for key, tensor in state.items() if not key.startswith(ANCHORS)}
    counters = {
        key: torch.zeros(shape, dtype=torch.long)
        for key, shape in our_shapes(backbone).items()
        if COUNTED_HERE_ALONE.fullmatch(key)
    }
    return counters | found


@cache
def _our_names():
    return {theirs: key for key in our_shapes("r101") if (theirs := released_key(key))}


@cache
def _anchors():
    """The anchors of a cell [3, 4] at each level, by released name."""
    generator = build_prior_generator(released_config("r50")["rpn_head"]["anchor_generator"])
    return {f"{ANCHORS}{level}": rows for level, rows in enumerate(generator.base_anchors)}


def _backbone(state, path):
    """Tell the depth from the number of blocks in the third stage."""
    for stem, last in (
        ("backbone.conv1.weight", "backbone.layer3.22.conv1.weight"),
        ("backbone.bottom_up.stem.conv1.weight", "backbone.bottom_up.res4.22.conv1.weight"),
    ):
        if stem in state:
            return "r101" if last in state else "r50"
    raise ExperimentError(
        f"{path}: no backbone.bottom_up.stem.conv1.weight; expected OPMask with one of the backbones "
        f"{', '.join(BACKBONES)}"
    )
