"""Convert checkpoints between the authors' code, a Detectron2 project, and this project's `cpmask_fcos`.

Every tensor of theirs is one of ours. Ours counts batches in the backbone's batch norms beside them, which theirs,
frozen, do not, and which nothing reads. Their weights want images with blue first, from 0 to 255 less a mean: the
configuration of a converted file has a backbone that turns ours into those.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from mmcv import ConfigDict
from mmdet.models import build_detector

from pipeline import methods
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.shared.cpmask.parts import ONE_STAGE_MODULES as MODULES  # noqa: F401  # of a converted file
from pipeline.methods.shared.released_checkpoint import load_state, require_same, save
from pipeline.methods.shared.sizes import Sizes

METHOD = "cpmask_fcos"
HEAD, OUR_HEAD = "roi_heads.mask_head.", "roi_head.mask_head."
MARKS = f"{HEAD}blocker.weight", "proposal_generator.fcos_head.ctrness.weight"  # which no other model has
OUR_MARKS = f"{OUR_HEAD}affinity.norm.weight", "bbox_head.conv_centerness.weight"

NUM_CLASSES = 80
BACKBONES = {
    name: {"type": "BlueFirstResNet", "depth": depth, "frozen_stages": 1, "norm_eval": True, "style": "caffe"}
    for name, depth in (("r50", 50), ("r101", 101))
}
DEEP = "backbone.bottom_up.res4.22.conv1.weight"  # of a ResNet-101
COUNTER = re.compile(r"backbone\..*\.num_batches_tracked")
SCALE = re.compile(r"bbox_head\.scales\.\d+\.scale")  # [1] there, a number here


class Rule(NamedTuple):
    """How tensors are called there and here.

    Attributes:
        theirs, ours: names; `{n}`, `{m}` and `{k}` stand for numbers, `*` for the last part of both.
        step, first: {n} of theirs is `step` times that of ours plus `first`.
    """

    theirs: str
    ours: str
    step: int = 1
    first: int = 0

    def translate(self, name: str, reverse: bool) -> str | None:
        """Our name of theirs, theirs of ours if `reverse`; None if the rule is of others."""
        source, target = (self.ours, self.theirs) if reverse else (self.theirs, self.ours)
        if (found := _pattern(source).fullmatch(name)) is None:
            return None
        parts = found.groupdict()
        if "n" in parts:
            number = int(parts["n"])
            counted, odd = (number * self.step + self.first, 0) if reverse else divmod(number - self.first, self.step)
            if odd or counted < 0:
                return None
            parts["n"] = counted
        return target.replace("*", "{leaf}").format(**parts)


@cache
def _pattern(name):
    pattern = re.escape(name).replace(r"\*", "(?P<leaf>[a-z_]+)")
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", pattern))


BOTTOM_UP, FCOS = "backbone.bottom_up.", "proposal_generator.fcos_head."
RULES = (
    Rule(f"{BOTTOM_UP}stem.conv1.norm.*", "backbone.bn1.*"),
    Rule(f"{BOTTOM_UP}stem.conv1.*", "backbone.conv1.*"),
    Rule(f"{BOTTOM_UP}res{{n}}.{{m}}.shortcut.norm.*", "backbone.layer{n}.{m}.downsample.1.*", first=1),
    Rule(f"{BOTTOM_UP}res{{n}}.{{m}}.shortcut.*", "backbone.layer{n}.{m}.downsample.0.*", first=1),
    Rule(f"{BOTTOM_UP}res{{n}}.{{m}}.conv{{k}}.norm.*", "backbone.layer{n}.{m}.bn{k}.*", first=1),
    Rule(f"{BOTTOM_UP}res{{n}}.{{m}}.conv{{k}}.*", "backbone.layer{n}.{m}.conv{k}.*", first=1),
    Rule("backbone.top_block.p6.*", "neck.fpn_convs.3.conv.*"),
    Rule("backbone.top_block.p7.*", "neck.fpn_convs.4.conv.*"),
    Rule("backbone.fpn_lateral{n}.*", "neck.lateral_convs.{n}.conv.*", first=3),
    Rule("backbone.fpn_output{n}.*", "neck.fpn_convs.{n}.conv.*", first=3),
    # Convolution, group norm and ReLU of a tower count there.
    *(
        Rule(f"{FCOS}{theirs}_tower.{{n}}.*", f"bbox_head.{ours}_convs.{{n}}.{layer}.*", 3, first)
        for theirs, ours in (("cls", "cls"), ("bbox", "reg"))
        for first, layer in enumerate(("conv", "gn"))
    ),
    Rule(f"{FCOS}cls_logits.*", "bbox_head.conv_cls.*"),
    Rule(f"{FCOS}bbox_pred.*", "bbox_head.conv_reg.*"),
    Rule(f"{FCOS}ctrness.*", "bbox_head.conv_centerness.*"),
    Rule(f"{FCOS}scales.{{n}}.*", "bbox_head.scales.{n}.*"),
)
# Of the mask head, whose names in it are also those of the fixtures that it is compared with.
HEAD_RULES = (
    Rule("mask_fcn{n}.*", "convs.{n}.conv.*", first=1),
    Rule("deconv.*", "upsample.*"),
    Rule("predictor.*", "conv_logits.*"),
    *(Rule(f"{part}_transform.*", f"affinity.{part}.*") for part in ("query", "key", "value", "output")),
    Rule("blocker.*", "affinity.norm.*"),
    Rule("boundary_fcn{n}.*", "boundary_convs.{n}.conv.*", first=1),
    Rule("boundary_deconv.*", "boundary_upsample.*"),
    Rule("boundary_predictor.*", "boundary_logits.*"),
    Rule("boundary_gate.*", "boundary_gate.*"),
    Rule("mask_transform.norm.*", "transform.gn.*"),
    Rule("mask_transform.*", "transform.conv.*"),
)


def our_head_key(name: str, reverse: bool = False) -> str | None:
    """Our name of a tensor of the mask head by theirs, or theirs by ours; None if it has no counterpart."""
    return next((found for rule in HEAD_RULES if (found := rule.translate(name, reverse))), None)


def our_key(name: str, reverse: bool = False) -> str | None:
    """As `our_head_key`, of the whole model."""
    source, target = (OUR_HEAD, HEAD) if reverse else (HEAD, OUR_HEAD)
    if name.startswith(source):
        found = our_head_key(name.removeprefix(source), reverse)
        return found and target + found
    return next((found for rule in RULES if (found := rule.translate(name, reverse))), None)


def renamed(state: dict) -> dict | None:
    """Give a state of the authors' code our names and shapes, one that was converted as it is; None for any other."""
    if all(mark in state for mark in OUR_MARKS):
        return state
    if not all(mark in state for mark in MARKS):
        return None
    names = {key: our_key(key) or key for key in state}
    return {ours: state[key].reshape(()) if SCALE.fullmatch(ours) else state[key] for key, ours in names.items()}


def classes() -> tuple[str, ...]:
    """The classes of the released checkpoints."""
    return label_set("coco").names


def configuration(state: dict, path: Path) -> dict:
    """The model configuration of a state in our names, by its backbone."""
    return configuration_of(_backbone(state))


def configuration_of(backbone: str) -> dict:
    """The model configuration of the authors' code with one of `BACKBONES`, its types known."""
    method = methods.method(METHOD)
    knobs = method.preset("released")
    methods.register(METHOD, knobs)
    return method.model(knobs, Sizes(), BACKBONES[backbone], NUM_CLASSES)


def convert(path: Path, out: Path, reverse: bool = False) -> str:
    """Convert a checkpoint file, strictly: every key is mapped, or the error names those that are not.

    Args:
        path: file with a state dict, bare or under 'model' or 'state_dict'.
        out: file to write; appears only when complete.
        reverse: from this implementation to the authors' code.

    Returns:
        The backbone that the file is of.

    Raises:
        ExperimentError: the file cannot be read, or its keys or shapes are not those of a known model.
    """
    state, _ = load_state(path)
    if not any(mark in state for mark in (OUR_MARKS if reverse else MARKS)):
        expected = "this project's `cpmask_fcos`" if reverse else "the authors' CPMask"
        raise ExperimentError(f"{path}: not a model of {expected}; it has none of its layers")
    backbone = _backbone(state)
    ours = shapes(backbone)
    both = {key: our_key(key, reverse=True) for key in ours if not COUNTER.fullmatch(key)}
    if reverse:
        require_same(state, {key: ours[key] for key in ours if key in both or key in state}, path, backbone)
        converted = {name: state[key].reshape(_their_shape(key, ours[key])).clone() for key, name in both.items()}
        save({"model": converted}, out)
        return backbone
    require_same(state, {name: _their_shape(key, ours[key]) for key, name in both.items()}, path, backbone)
    converted = {
        key: state[both[key]].reshape(shape).clone() if key in both else torch.zeros(shape, dtype=torch.long)
        for key, shape in ours.items()
    }
    save({"state_dict": converted, "meta": {"CLASSES": classes()}}, out)
    return backbone


@cache
def shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Shapes of our tensors by name, of one of `BACKBONES`."""
    with torch.device("meta"):
        model = build_detector(ConfigDict(configuration_of(backbone)))
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def their_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the authors' tensors by name, of one of `BACKBONES`."""
    ours = {key: shape for key, shape in shapes(backbone).items() if not COUNTER.fullmatch(key)}
    return {our_key(key, reverse=True): _their_shape(key, shape) for key, shape in ours.items()}


def _their_shape(key, shape):
    return (1,) if SCALE.fullmatch(key) else shape


def _backbone(state):
    """By the number of blocks in the third stage."""
    return "r101" if DEEP in state or our_key(DEEP) in state else "r50"
