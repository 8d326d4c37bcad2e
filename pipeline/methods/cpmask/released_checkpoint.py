"""Convert checkpoints between the authors' code, a Detectron2 project, and this project's `cpmask_fcos`.

Every parameter of theirs is one of ours. Ours has counters of batch norms beside them, which their frozen batch norms
lack and nothing reads. Images enter their model as BGR from 0 to 255 less a mean: `docs/methods/cpmask.md`.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import re
from pathlib import Path

import torch
from mmcv import ConfigDict
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import files
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.shared.sizes import Sizes

METHOD = "cpmask_fcos"
HEAD = "roi_heads.mask_head."
OUR_HEAD = "roi_head.mask_head."
MARKS = f"{HEAD}blocker.weight", "proposal_generator.fcos_head.ctrness.weight"  # what no other model has
OUR_MARKS = f"{OUR_HEAD}affinity.norm.weight", "bbox_head.conv_centerness.weight"
COUNTER = re.compile(r"backbone\..*\.num_batches_tracked")

NUM_CLASSES = 80
BACKBONES = {
    name: {"type": "ResNet", "depth": depth, "frozen_stages": 1, "norm_eval": True, "style": "caffe"}
    for name, depth in (("r50", 50), ("r101", 101))
}
THIRD_STAGE = re.compile(r"backbone\.bottom_up\.res4\.(\d+)\.|backbone\.layer3\.(\d+)\.")

# Their names as patterns and ours as templates; the first that fits counts. {0} is a pattern's group.
RULES = (
    ("backbone.bottom_up.stem.conv1.norm.{leaf}", "backbone.bn1.{leaf}"),
    ("backbone.bottom_up.stem.conv1.{leaf}", "backbone.conv1.{leaf}"),
    ("backbone.bottom_up.res{n+1}.{m}.shortcut.norm.{leaf}", "backbone.layer{n}.{m}.downsample.1.{leaf}"),
    ("backbone.bottom_up.res{n+1}.{m}.shortcut.{leaf}", "backbone.layer{n}.{m}.downsample.0.{leaf}"),
    ("backbone.bottom_up.res{n+1}.{m}.conv{k}.norm.{leaf}", "backbone.layer{n}.{m}.bn{k}.{leaf}"),
    ("backbone.bottom_up.res{n+1}.{m}.conv{k}.{leaf}", "backbone.layer{n}.{m}.conv{k}.{leaf}"),
    ("backbone.fpn_lateral{n+3}.{leaf}", "neck.lateral_convs.{n}.conv.{leaf}"),
    ("backbone.fpn_output{n+3}.{leaf}", "neck.fpn_convs.{n}.conv.{leaf}"),
    ("backbone.top_block.p{n+3}.{leaf}", "neck.fpn_convs.{n}.conv.{leaf}"),
)
