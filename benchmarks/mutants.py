"""python -m benchmarks.mutants [--only PART] [--list]: does a test notice when the science is edited wrongly?

Every mutant is one edit of one line. It is applied to a copy of the working tree, the tests that should notice run
there, and the line is put back. `caught` is a failing test; `survived` is none.
"""

import argparse
import importlib
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.mutants_simformer import ROWS as SIMFORMER
from pipeline.cli import command
from pipeline.errors import ExperimentError

ROOT = Path(__file__).resolve().parent.parent
OWN = ("pipeline", "stages", "commands", "tools", "benchmarks", "tests")  # packages that a copy has its own of
# Imported once and shared by the forked test runs; compat goes before those that need it.
LIBRARIES = (
    "numpy",
    "torch",
    "pandas",
    "cv2",
    "pytest",
    "hypothesis",
    "pipeline.compat",
    "mmcv",
    "mmcv.ops",
    "mmdet.core",
    "mmdet.datasets",
    "mmdet.models",
    "pycocotools.coco",
    "ruamel.yaml",
)
PATIENCE = 600  # seconds that the tests of a mutant may take; one that hangs is caught


class Mutant(NamedTuple):
    """One wrong edit.

    Attributes:
        name: what is wrong.
        file: edited file, relative to the repository.
        old, new: text and its replacement; `old` occurs once.
        tests: arguments of pytest.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MODELS = "pipeline/methods/contrastmask/"
SHARED = "pipeline/methods/shared/"
CONFIGURATION = "tests/core/test_released_configuration.py"
SCHEDULE = "tests/core/test_schedule.py"
SETS = "tests/models/test_sets.py"
LOSSES = "tests/models/test_losses.py"
HEAD = "tests/models/test_contrastive_head.py"
ROUTES = "tests/models/test_gradient_routes.py"
INFERENCE = "tests/models/test_inference.py"
WEAK = "tests/models/test_weaknesses.py"
START = "tests/models/test_initialisation.py"
BATCHED = "tests/models/test_batched.py"
THRESHOLDS = "tests/models/test_thresholds.py"
HOOKS = "tests/models/test_hooks.py"
TARGETS = "tests/datasets/test_mask_targets.py"
PARTIAL = "tests/datasets/test_partial.py"
SAMPLER = "tests/datasets/test_sampler.py"
SPLIT = "tests/datasets/test_split.py"
CATEGORIES = "tests/datasets/test_label_sets.py"
PARITY = "tests/evaluation/test_parity.py"
GOLDEN = "tests/golden/test_verify.py"
OPMASK, MASKX = "pipeline/methods/opmask/", "pipeline/methods/maskx/"
OPMASK_GOLDEN, MASKX_GOLDEN = "tests/golden_comparison/test_opmask.py", "tests/golden_comparison/test_maskx.py"
OPMASK_TESTS, MASKX_TESTS = "tests/methods/test_opmask.py", "tests/methods/test_maskx.py"
SHAPEPROP = "pipeline/methods/shapeprop/"
GRABCUT = "pipeline/methods/grabcut/"
CUT = "tests/methods/test_grabcut.py"
SHAPE = "tests/methods/test_shapeprop.py"
SHAPE_GOLDEN = "tests/methods/test_shapeprop_golden.py -k 'numbers_are_reproduced or other_sizes'"
CPMASK = "pipeline/methods/shared/cpmask/"
CPMASK_PARTS = "tests/methods/cpmask/test_parts.py"
CPMASK_NUMBERS = "tests/methods/cpmask/test_golden.py -k plain"
CPMASK_STEP = "tests/methods/cpmask/test_model.py -k every_roi"
CPMASK_OBJECTS = "tests/methods/cpmask/test_model.py -k boxes_of_base"
CPMASK_FCOS = "tests/methods/cpmask/test_model.py -k 'root or full_size'"
SHAPEMASK, SHAPEMASK_SHARED = "pipeline/methods/shapemask/", "pipeline/methods/shared/shapemask/"
SHAPES, SHAPES_RETINA = "tests/methods/test_shapemask.py", "tests/methods/test_shapemask_retina.py"
SHAPES_GOLDEN = "tests/methods/test_shapemask_golden.py -k 'authors_numbers or other_sizes'"

MUTANTS = [
    Mutant(*row)
    for row in (
        # Schedule, optimiser, images: pipeline/experiments/profiles.yaml, profile `full`
        (
            "milestones",
            "pipeline/experiments/profiles.yaml",
            "1x: {epochs: 12, milestones: [8, 11]}",
            "1x: {epochs: 12, milestones: [6, 9]}",
            CONFIGURATION,
        ),
        (
            "milestones of 3x",
            "pipeline/experiments/profiles.yaml",
            "3x: {epochs: 36, milestones: [27, 33]}",
            "3x: {epochs: 36, milestones: [24, 33]}",
            CONFIGURATION,
        ),
        (
            "length of 3x",
            "pipeline/experiments/profiles.yaml",
            "3x: {epochs: 36, milestones: [27, 33]}",
            "3x: {epochs: 34, milestones: [27, 33]}",
            CONFIGURATION,
        ),
        (
            "scales",
            "pipeline/experiments/profiles.yaml",
            "train_scales: [[1333, 640], [1333, 800]]",
            "train_scales: [[1333, 480], [1333, 960]]",
            CONFIGURATION,
        ),
        (
            "scale of testing",
            "pipeline/experiments/profiles.yaml",
            "[1333, 800]], test_scale: [1333, 800], size_divisor: 32}\n    training:\n      batch_size: 16",
            "[1333, 800]], test_scale: [1333, 600], size_divisor: 32}\n    training:\n      batch_size: 16",
            CONFIGURATION,
        ),
        (
            "backbone unfrozen",
            "pipeline/experiments/profiles.yaml",
            "r50: &r50 {type: ResNet, depth: 50, frozen_stages: 1,",
            "r50: &r50 {type: ResNet, depth: 50, frozen_stages: -1,",
            CONFIGURATION,
        ),
        (
            "batch norm of the backbone trains",
            "pipeline/experiments/profiles.yaml",
            "r101: &r101 {type: ResNet, depth: 101, frozen_stages: 1, norm_eval: true",
            "r101: &r101 {type: ResNet, depth: 101, frozen_stages: 1, norm_eval: false",
            CONFIGURATION,
        ),
        (
            "groups of ResNeXt",
            "pipeline/experiments/profiles.yaml",
            "x101: &x101 {type: ResNeXt, depth: 101, groups: 64",
            "x101: &x101 {type: ResNeXt, depth: 101, groups: 32",
            CONFIGURATION,
        ),
        (
            "learning rate",
            "pipeline/experiments/profiles.yaml",
            "precision: fp32       # or bf16, fp16: convolutions and linear layers; losses stay in fp32\n"
            "      optimizer: {type: SGD, lr: 0.02,",
            "precision: fp32       # or bf16, fp16: convolutions and linear layers; losses stay in fp32\n"
            "      optimizer: {type: SGD, lr: 0.01,",
            CONFIGURATION,
        ),
        (
            "weight decay",
            "pipeline/experiments/profiles.yaml",
            "weight_decay: 0.0001}\n      lr_policy: step\n      warmup_iterations: 500",
            "weight_decay: 0.0005}\n      lr_policy: step\n      warmup_iterations: 500",
            CONFIGURATION,
        ),
        (
            "batch",
            "pipeline/experiments/profiles.yaml",
            "batch_size: 16        # images",
            "batch_size: 8         # images",
            CONFIGURATION,
        ),
        (
            "warm-up length",
            "pipeline/experiments/profiles.yaml",
            "warmup_iterations: 500",
            "warmup_iterations: 1000",
            CONFIGURATION,
        ),
        (
            "direction",
            "pipeline/declaration/label_sets/coco.yaml",
            "nonvoc2voc: {base: nonvoc, novel: voc}",
            "nonvoc2voc: {base: voc, novel: nonvoc}",
            CONFIGURATION,
        ),
        (
            "row of Table 4",
            "pipeline/experiments/contrastmask.yaml",
            "contrastmask_sigma_0_6: {<<: *ours, overrides: {sigma: 0.6}}",
            "contrastmask_sigma_0_6: {<<: *ours, overrides: {sigma: 0.5}}",
            CONFIGURATION,
        ),
        (
            "row without CAM",
            "pipeline/experiments/contrastmask.yaml",
            "cam_r50_1x_nonvoc2voc: {<<: *pinned, method: cam}",
            "cam_r50_1x_nonvoc2voc: {<<: *pinned, method: mask_rcnn}",
            CONFIGURATION,
        ),
        ("warm-up ratio", "pipeline/training/schedule.py", "WARMUP_RATIO = 0.001", "WARMUP_RATIO = 0.1", CONFIGURATION),
        (
            "warm-up shape",
            "pipeline/training/schedule.py",
            "iteration / self.warmup)",
            "0 / self.warmup)",
            SCHEDULE,
        ),
        (
            "milestones in iterations",
            "pipeline/training/schedule.py",
            "milestone * unit for milestone",
            "milestone * accumulate for milestone",
            CONFIGURATION,
        ),
        (
            "warm-up of a divided step",
            "pipeline/training/schedule.py",
            '["warmup_iterations"] * accumulate',
            '["warmup_iterations"]',
            CONFIGURATION,
        ),
        (
            "linear rule",
            "pipeline/declaration/config.py",
            '["lr"] *= factor',
            '["lr"] /= factor',
            "tests/core/test_config.py",
        ),
        (
            "mask format of 3x",
            SHARED + "two_stage.py",
            'bitmap = knobs.mask_format == "bitmap"',
            "bitmap = True",
            CONFIGURATION,
        ),
        # Data steps
        ("no BGR to RGB", "pipeline/tasks/instances/steps.py", '"to_rgb": True', '"to_rgb": False', CONFIGURATION),
        (
            "mean of images",
            "pipeline/tasks/instances/steps.py",
            "[123.675, 116.28, 103.53]",
            "[103.53, 116.28, 123.675]",
            CONFIGURATION,
        ),
        ("flip", "pipeline/tasks/instances/steps.py", "flip_ratio=0.5", "flip_ratio=0.0", CONFIGURATION),
        (
            "aspect ratio",
            "pipeline/tasks/instances/steps.py",
            '"multiscale_mode": "range", "keep_ratio": True',
            '"multiscale_mode": "range", "keep_ratio": False',
            CONFIGURATION,
        ),
        (
            "two scales only",
            "pipeline/tasks/instances/steps.py",
            '"multiscale_mode": "range"',
            '"multiscale_mode": "value"',
            CONFIGURATION,
        ),
        (
            "novel flag",
            "pipeline/tasks/instances/packed_coco.py",
            "[mask is None for mask in parsed",
            "[mask is not None for mask in parsed",
            PARTIAL,
        ),
        (
            "augmentation seed",
            "pipeline/tasks/instances/packed_coco.py",
            "    np.random.seed(seed)\n",
            "    np.random.seed(0)\n",
            PARTIAL,
        ),
        (
            "holes of encoded masks",
            "pipeline/tasks/instances/packed_coco.py",
            "(1, -1)), strict=True",
            "(1, 1)), strict=True",
            TARGETS,
        ),
        (
            "whole coordinates are cut",
            "pipeline/tasks/instances/packed_coco.py",
            "np.asarray(polygon, dtype=np.float64)",
            "np.asarray(polygon)",
            TARGETS,
        ),
        (
            "format of the oracle's prior",
            "pipeline/methods/contrastmask/oracle.py",
            '"poly2mask": step["poly2mask"]',
            '"poly2mask": True',
            TARGETS,
        ),
        # Sampler, groups, split
        (
            "same order in every epoch",
            "pipeline/training/sampler.py",
            "default_rng([self.seed, epoch])",
            "default_rng([self.seed, 0])",
            SAMPLER,
        ),
        (
            "ranks share images",
            "pipeline/training/sampler.py",
            "slice(self.rank, None, self.world_size)",
            "slice(0, None, self.world_size)",
            SAMPLER,
        ),
        (
            "mixed groups",
            "pipeline/training/sampler.py",
            "self.group_flags == group",
            "self.group_flags >= group",
            SAMPLER,
        ),
        (
            "a category of VOC",
            "pipeline/declaration/label_sets/coco.yaml",
            "    - tv\n",
            "    - laptop\n",
            CATEGORIES,
        ),
        (
            "a category id",
            "pipeline/declaration/label_sets/coco.yaml",
            "{id: 13, name: stop sign,",
            "{id: 12, name: stop sign,",
            CATEGORIES,
        ),
        (
            "novel masks leak",
            "pipeline/tasks/instances/split.py",
            '"bbox", "iscrowd", "ignore")',
            '"bbox", "iscrowd", "ignore", "segmentation")',
            SPLIT,
        ),
        (
            "novel areas leak",
            "pipeline/tasks/instances/split.py",
            'record["area"], record["novel"] = width * height, True',
            'record["area"], record["novel"] = annotation["area"], True',
            SPLIT,
        ),
        (
            "groups of the split",
            "pipeline/tasks/instances/split.py",
            '"novel" if c.name in novel else "base"',
            '"base" if c.name in novel else "novel"',
            SPLIT,
        ),
        # Model configuration
        (
            "positive RoIs",
            SHARED + "sizes.py",
            "rcnn_positive_fraction: Fraction = 0.25",
            "rcnn_positive_fraction: Fraction = 0.5",
            CONFIGURATION,
        ),
        (
            "sampled RoIs",
            SHARED + "sizes.py",
            "rcnn_samples: Count = 512",
            "rcnn_samples: Count = 256",
            CONFIGURATION,
        ),
        (
            "anchors in the RPN loss",
            SHARED + "sizes.py",
            "rpn_samples: Count = 256",
            "rpn_samples: Count = 512",
            CONFIGURATION,
        ),
        (
            "negative anchors",
            SHARED + "sizes.py",
            "rpn_negative_iou: Fraction = 0.3",
            "rpn_negative_iou: Fraction = 0.4",
            CONFIGURATION,
        ),
        (
            "proposals before NMS",
            SHARED + "sizes.py",
            "rpn_pre_nms: Count = 2000",
            "rpn_pre_nms: Count = 1000",
            CONFIGURATION,
        ),
        (
            "NMS of detections",
            SHARED + "sizes.py",
            "nms_iou: Fraction = 0.5",
            "nms_iou: Fraction = 0.6",
            CONFIGURATION,
        ),
        (
            "score threshold",
            SHARED + "sizes.py",
            "score_threshold: Fraction = 0.05",
            "score_threshold: Fraction = 0.5",
            CONFIGURATION,
        ),
        (
            "detections an image",
            SHARED + "sizes.py",
            "max_detections: Count = 100",
            "max_detections: Count = 50",
            CONFIGURATION,
        ),
        (
            "anchor size",
            SHARED + "sizes.py",
            "anchor_scales: Numbers = (8,)",
            "anchor_scales: Numbers = (4,)",
            CONFIGURATION,
        ),
        (
            "ground truth as proposals",
            SHARED + "two_stage.py",
            "sizes.rcnn_positive_fraction, True)",
            "sizes.rcnn_positive_fraction, False)",
            CONFIGURATION,
        ),
        (
            "deltas of boxes",
            SHARED + "two_stage.py",
            "_box_coder([0.1, 0.1, 0.2, 0.2])",
            "_box_coder([1.0, 1.0, 1.0, 1.0])",
            CONFIGURATION,
        ),
        (
            "temperature of the hard keys for the easy ones",
            "pipeline/methods/contrastmask/model.py",
            '"tau_easy": knobs.tau_easy',
            '"tau_easy": knobs.tau_hard',
            CONFIGURATION,
        ),
        # Recipes and knob files
        (
            "tau of the paper",
            "pipeline/methods/contrastmask/recipes.yaml",
            "knob: tau_easy, paper: 0.7",
            "knob: tau_easy, paper: 0.5",
            CONFIGURATION,
        ),
        (
            "epochs of lambda",
            "pipeline/methods/contrastmask/recipes.yaml",
            "lambda_warmup_epochs, paper: 4, released: 4",
            "lambda_warmup_epochs, paper: 4, released: 8",
            CONFIGURATION,
        ),
        (
            "passes of an epoch",
            "pipeline/methods/contrastmask/recipes.yaml",
            "released: {1x: 1, 3x: 3},",
            "released: {1x: 1, 3x: 1},",
            CONFIGURATION,
        ),
        (
            "key pooling",
            "pipeline/methods/contrastmask/recipes.yaml",
            "knob: key_pooling, paper: roi, released: batch",
            "knob: key_pooling, paper: roi, released: roi",
            CONFIGURATION,
        ),
        (
            "initial weights of the box head",
            "pipeline/methods/contrastmask/recipes.yaml",
            "knob: box_init, paper: xavier, released: xavier",
            "knob: box_init, paper: normal, released: normal",
            CONFIGURATION,
        ),
        ("pinned sigma", "pipeline/methods/contrastmask/knobs.yaml", "sigma: 0.3 ", "sigma: 0.6 ", CONFIGURATION),
        ("pinned delta", "pipeline/methods/contrastmask/knobs.yaml", "delta: 0.1 ", "delta: 0.2 ", CONFIGURATION),
        (
            "pinned loss",
            "pipeline/methods/contrastmask/knobs.yaml",
            "loss_denominator: temperature",
            "loss_denominator: recipe     ",
            CONFIGURATION,
        ),
        # CAM and edges
        (
            "bias in the CAM",
            SHARED + "cam_box_head.py",
            "features, weight[labels])",
            "features, weight[labels] + 0.1)",
            INFERENCE,
        ),
        ("flat maps", SHARED + "cam.py", "FLAT_SPAN = 1e-6", "FLAT_SPAN = 1e-2", THRESHOLDS),
        ("rounding as a prior", SHARED + "cam.py", "FLAT_SPAN = 1e-6", "FLAT_SPAN = 0.0", THRESHOLDS),
        ("corners of the CAM", SHARED + "cam.py", "align_corners=False", "align_corners=True", GOLDEN + " -k cam"),
        (
            "edges look back",
            MODELS + "edges.py",
            "(rows[:, 2:] != rows[:, :-2])",
            "(rows[:, 1:-1] != rows[:, :-2])",
            SETS,
        ),
        (
            "dilation in four directions",
            MODELS + "edges.py",
            "rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:]",
            "rows[:, :, :-2] | rows[:, :, 1:-1]",
            SETS,
        ),
        # Partition and sampling
        (
            "background of the CAM",
            MODELS + "partition.py",
            "prior > 1 - delta, prior < delta",
            "prior > 1 - delta, prior < 1 - delta",
            SETS,
        ),
        ("tiny sides", MODELS + "partition.py", "TINY_SIDE_CELLS = 2", "TINY_SIDE_CELLS = 3", SETS),
        ("band of the released rule", MODELS + "partition.py", "else near & ~edges", "else near", SETS),
        (
            "RoIs that are kept",
            MODELS + "partition.py",
            "(self.counts >= min_keys).all",
            "(self.counts > min_keys).all",
            GOLDEN + " -k partitions",
        ),
        (
            "float32 of the counts",
            MODELS + "sampling.py",
            "torch.ceil(counts.to(torch.float32) * rule.sigma)",
            "torch.ceil(counts.to(torch.float64) * rule.sigma)",
            SETS,
        ),
        ("draws are the first cells", MODELS + "sampling.py", "numbers &= -1 << index_bits", "numbers &= 0", SETS),
        ("same draw in every step", SHARED + "draws.py", "{seed}/{rank}/{iteration}", "{seed}/{rank}", SETS),
        # Loss
        (
            "sign of the background",
            MODELS + "losses.py",
            "(BACKGROUND, EASY_NEGATIVE, EASY_POSITIVE, ",
            "(BACKGROUND, EASY_POSITIVE, EASY_NEGATIVE, ",
            LOSSES,
        ),
        (
            "temperature of hard keys",
            MODELS + "losses.py",
            '(FOREGROUND, HARD_POSITIVE, HARD_NEGATIVE, "tau_hard")',
            '(FOREGROUND, HARD_POSITIVE, HARD_NEGATIVE, "tau_easy")',
            LOSSES,
        ),
        ("no direction", MODELS + "losses.py", "NO_DIRECTION = 1e-6", "NO_DIRECTION = 1e-3", THRESHOLDS),
        ("direction of rounding", MODELS + "losses.py", "NO_DIRECTION = 1e-6", "NO_DIRECTION = 1e-9", THRESHOLDS),
        (
            "denominator",
            MODELS + "losses.py",
            'form.denominator == "temperature" else cosines',
            'form.denominator == "plain" else cosines',
            LOSSES,
        ),
        ("centring", MODELS + "losses.py", "dots = dots - query_squares", "dots = dots + query_squares", LOSSES),
        (
            "gradient of the query",
            MODELS + "losses.py",
            "grad_own = grad_own * share[..., None]",
            "grad_own = grad_own * 1",
            LOSSES,
        ),
        (
            "lambda starts at 0",
            MODELS + "losses.py",
            "min(max(0.25, int(epoch) / epochs), 1.0)",
            "min(max(0.0, int(epoch) / epochs), 1.0)",
            LOSSES,
        ),
        (
            "lambda rises past 1",
            MODELS + "losses.py",
            "min(max(0.25, int(epoch) / epochs), 1.0)",
            "max(0.25, int(epoch) / epochs)",
            LOSSES,
        ),
        ("linear lambda", MODELS + "losses.py", "0.25 + 0.75 * min", "0.25 + 0.5 * min", LOSSES),
        # Heads
        ("supervision", MODELS + "cl_head.py", "            return ~is_novel\n", "            return is_novel\n", HEAD),
        (
            "novel RoIs read masks",
            MODELS + "cl_head.py",
            'if self.supervision == "oracle" else ~is_novel',
            'if self.supervision != "oracle" else ~is_novel',
            HEAD,
        ),
        (
            "weight of the loss",
            MODELS + "cl_head.py",
            "self.loss_factor * warmup_weight * terms.sum()",
            "self.loss_factor * terms.sum()",
            HEAD,
        ),
        (
            "kept RoIs in the queries",
            MODELS + "cl_head.py",
            'self.query_rois == "kept"',
            'self.query_rois == "all"',
            HEAD,
        ),
        (
            "fusion starts otherwise",
            MODELS + "cl_head.py",
            "            kaiming_init(self.fusion)\n",
            "            pass\n",
            START,
        ),
        (
            "attention without directions",
            MODELS + "attention.py",
            "scaled_dot_product_attention(directions, directions, cells, scale=1.0)",
            "scaled_dot_product_attention(cells, directions, cells, scale=1.0)",
            HEAD,
        ),
        ("attention scaled", MODELS + "attention.py", "cells, scale=1.0)", "cells)", HEAD),
        ("Xavier of the box head", SHARED + "cam_box_head.py", 'if init == "xavier":', 'if init == "normal":', START),
        (
            "classifier trains through the CAM",
            SHARED + "cam_box_head.py",
            "weight = self.fc_cls.weight.detach() if",
            "weight = self.fc_cls.weight if",
            ROUTES,
        ),
        (
            "detection of another proposal",
            SHARED + "cam_box_head.py",
            'self.num_classes, rounding_mode="floor")',
            'self.num_classes + 1, rounding_mode="floor")',
            INFERENCE,
        ),
        (
            "mask loss of all RoIs",
            SHARED + "class_agnostic_mask_head.py",
            "cells.mean((-2, -1)) * in_loss",
            "cells.mean((-2, -1))",
            GOLDEN + " -k mask_branch_train",
        ),
        (
            "mean of the mask loss",
            SHARED + "class_agnostic_mask_head.py",
            "in_loss.sum().clamp(min=1)",
            "len(in_loss)",
            GOLDEN + " -k mask_branch_train",
        ),
        (
            "CAM is not added",
            SHARED + "class_agnostic_mask_head.py",
            "x + self.cam_scale * cam",
            "x + 0.0 * cam",
            GOLDEN + " -k maskhead",
        ),
        (
            "novel RoIs in the mask loss",
            SHARED + "partial_roi_head.py",
            "        in_loss = ~is_novel\n",
            "        in_loss = is_novel | ~is_novel\n",
            WEAK + " -k w32",
        ),
        (
            "boxes of the mask loss",
            SHARED + "partial_roi_head.py",
            'if self.mask_loss_rois == "base_gt":',
            'if self.mask_loss_rois == "base_positives":',
            GOLDEN + " -k mask_branch_train",
        ),
        (
            "contrastive loss reaches the backbone",
            MODELS + "roi_head.py",
            "            features = features.detach()\n",
            "            pass\n",
            ROUTES,
        ),
        (
            "mask loss stops at the CAM",
            SHARED + "partial_roi_head.py",
            "cam.detach() if self.detach_mask_cam else cam",
            "cam.detach()",
            ROUTES,
        ),
        ("lambda in passes", MODELS + "roi_head.py", "passes / self.lambda_epoch_passes", "passes", HOOKS),
        (
            "epochs of the hook",
            "pipeline/training/progress.py",
            "iteration / self.iterations_per_epoch",
            "iteration",
            HOOKS,
        ),
        # Assignment, sampling and targets of all images at once
        ("one draw for all purposes", SHARED + "draws.py", 'f"{purpose}{seed}/', 'f"{seed}/', BATCHED),
        ("negatives in place of positives", SHARED + "draws.py", "< limit[:, None]", "< limit.max()", BATCHED),
        (
            "boxes that are not there",
            SHARED + "assignment.py",
            "left_out = ~boxes.valid",
            "left_out = boxes.valid & False",
            BATCHED,
        ),
        (
            "objects that are not there",
            SHARED + "assignment.py",
            "masked_fill(~objects.valid[..., None], -2)",
            "abs()",
            BATCHED,
        ),
        (
            "first object has its way",
            SHARED + "assignment.py",
            "number[:, None], 0).amax(1)",
            "number.flip(0)[:, None], 0).amax(1)",
            BATCHED,
        ),
        (
            "levels suppress each other",
            SHARED + "rpn_head.py",
            "broadcast_tensors(level, ",
            "broadcast_tensors(0 * level, ",
            BATCHED,
        ),
        (
            "boxes without extent are kept",
            SHARED + "rpn_head.py",
            "counts = boxes.valid.flatten()[kept]",
            "counts = kept >= 0",
            BATCHED,
        ),
        (
            "features in the order of levels",
            SHARED + "roi_extractor.py",
            "torch.cat(pooled)[order.argsort()]",
            "torch.cat(pooled)",
            BATCHED,
        ),
        (
            "masks of other objects",
            SHARED + "mask_targets.py",
            "[owners[:, None].to(boxes.dtype), ",
            "[0 * owners[:, None].to(boxes.dtype), ",
            BATCHED,
        ),
        # OPMask and Mask^X R-CNN
        (
            "OPMask: a process without RoIs counts",
            OPMASK + "batch_norm.py",
            "x.new_full((1,), len(x))",
            "x.new_full((1,), max(len(x), 1))",
            OPMASK_TESTS + " -k processes_normalise",
        ),
        (
            "OPMask: variance that is kept",
            OPMASK + "batch_norm.py",
            'if self.variance == "biased"',
            'if self.variance == "unbiased"',
            OPMASK_GOLDEN + " -k released_numbers",
        ),
        (
            "OPMask: gradient of other processes",
            OPMASK + "batch_norm.py",
            "return _summed(gradient)",
            "return gradient",
            OPMASK_TESTS + " -k processes_normalise",
        ),
        (
            "OPMask: nothing moves the statistics",
            OPMASK + "batch_norm.py",
            "self.momentum * count.clamp(max=1)",
            "self.momentum * count.clamp(min=1, max=1)",
            OPMASK_GOLDEN + " -k released_numbers",
        ),
        (
            "OPMask: statistics of each process",
            OPMASK + "batch_norm.py",
            "self.training and self.over_processes and",
            "self.training and",
            OPMASK_TESTS + " -k knobs_of_the_norm",
        ),
        (
            "OPMask: widths of the trunk",
            OPMASK + "box_head.py",
            "min(2 * width, self.conv_out_channels)",
            "self.conv_out_channels",
            OPMASK_TESTS + " -k sizes_of_the_full",
        ),
        (
            "OPMask: width of the trunk",
            OPMASK + "model.py",
            "WIDENING = 4",
            "WIDENING = 2",
            OPMASK_TESTS + " -k sizes_of_the_full",
        ),
        (
            "OPMask: pooled regression",
            OPMASK + "model.py",
            '"pool_regression": True',
            '"pool_regression": False',
            OPMASK_GOLDEN + " -k released_numbers",
        ),
        (
            "OPMask: depth of the mask head",
            OPMASK + "model.py",
            "2 * sizes.mask_convs - 1",
            "sizes.mask_convs",
            OPMASK_TESTS + " -k sizes_of_the_full",
        ),
        (
            "OPMask: last layer of the mask head",
            OPMASK + "mask_head.py",
            "PREDICTOR_STD = 0.001",
            "PREDICTOR_STD = 0.01",
            OPMASK_TESTS + " -k start_as",
        ),
        (
            "OPMask: enlarged before it is normalised",
            OPMASK + "knobs.yaml",
            "cam_normalise: before_upsample",
            "cam_normalise: after_upsample",
            OPMASK_GOLDEN + " -k other_sizes",
        ),
        (
            "OPMask: classifier learns from masks",
            OPMASK + "knobs.yaml",
            "detach_classifier: true",
            "detach_classifier: false",
            OPMASK_TESTS + " -k reaches_the_trunk",
        ),
        (
            "OPMask: trunk does not",
            OPMASK + "knobs.yaml",
            "detach_mask_cam: false",
            "detach_mask_cam: true",
            OPMASK_TESTS + " -k reaches_the_trunk",
        ),
        (
            "OPMask: RoIs of the mask loss",
            OPMASK + "recipes.yaml",
            "released: base_positives",
            "released: base_gt",
            OPMASK_GOLDEN + " -k other_sizes",
        ),
        (
            "OPMask: start of the classifier",
            OPMASK + "knobs.yaml",
            "box_init: normal",
            "box_init: xavier",
            OPMASK_TESTS + " -k start_as",
        ),
        (
            "OPMask: order of colours",
            SHARED + "blue_first_resnet.py",
            "(images * self.deviation).flip(1)",
            "images * self.deviation",
            OPMASK_GOLDEN + " -k backbone_of_a_converted",
        ),
        (
            "Mask^X: order of what describes a box",
            MASKX + "box_head.py",
            ".mean(-1).flatten(1)",
            ".mean(-1).transpose(1, 2).flatten(1)",
            MASKX_GOLDEN + " -k released_numbers",
        ),
        (
            "Mask^X: detector learns from masks",
            MASKX + "box_head.py",
            "return vectors.detach() if detach else vectors",
            "return vectors",
            MASKX_TESTS + " -k reaches_the_transfer",
        ),
        (
            "Mask^X: background for a class",
            MASKX + "box_head.py",
            "self.fc_cls.weight[: self.num_classes]",
            "self.fc_cls.weight[1:]",
            MASKX_TESTS + " -k released_order",
        ),
        (
            "Mask^X: rectifier of the box head",
            SHARED + "fc_box_head.py",
            "features = self.relu(layer(features))",
            "features = layer(features)",
            MASKX_TESTS + " -k two_layers",
        ),
        (
            "Mask^X: start of the box head",
            MASKX + "box_head.py",
            '"type": "Caffe2Xavier"',
            '"type": "Xavier"',
            MASKX_TESTS + " -k start_as",
        ),
        (
            "Mask^X: slope",
            MASKX + "mask_head.py",
            "SLOPE = 0.1",
            "SLOPE = 0.01",
            MASKX_GOLDEN + " -k released_numbers",
        ),
        (
            "Mask^X: start of the class-agnostic branch",
            MASKX + "mask_head.py",
            "MLP_STD = 0.001",
            "MLP_STD = 0.01",
            MASKX_TESTS + " -k start_as",
        ),
        (
            "Mask^X: start of the transfer",
            MASKX + "mask_head.py",
            'mode="fan_out"',
            'mode="fan_in"',
            MASKX_TESTS + " -k start_as",
        ),
        (
            "Mask^X: maps are not added",
            MASKX + "mask_head.py",
            "logits = logits + self.mlp(",
            "logits = 0 * logits + self.mlp(",
            MASKX_GOLDEN + " -k other_sizes",
        ),
        (
            "Mask^X: weights of another class",
            MASKX + "mask_head.py",
            "weights[labels]",
            "weights[0 * labels]",
            MASKX_GOLDEN + " -k other_sizes",
        ),
        (
            "Mask^X: rectifier before the last layer",
            MASKX + "mask_head.py",
            "return self.relu(self.upsample(x))",
            "return self.upsample(x)",
            MASKX_GOLDEN + " -k other_sizes",
        ),
        (
            "Mask^X: activation after the transfer",
            MASKX + "mask_head.py",
            "        super().__init__(*parts[:-1])\n\n    def init_weights",
            "        super().__init__(*parts)\n\n    def init_weights",
            MASKX_GOLDEN + " -k released_numbers",
        ),
        (
            "Mask^X: weights are not detached",
            MASKX + "knobs.yaml",
            "detach_weights: true",
            "detach_weights: false",
            MASKX_GOLDEN + " -k other_sizes",
        ),
        (
            "Mask^X: class-agnostic branch",
            MASKX + "recipes.yaml",
            "paper: 1, released: 1",
            "paper: 1, released: 0",
            MASKX_TESTS + " -k sizes_of_the_full",
        ),
        (
            "Mask^X: RoIs of the mask loss",
            MASKX + "recipes.yaml",
            "released: base_positives",
            "released: base_gt",
            MASKX_GOLDEN + " -k other_sizes",
        ),
        (
            "Mask^X: background of a released classifier",
            MASKX + "released_checkpoint.py",
            "tensor.roll(-1, 0)",
            "tensor",
            MASKX_GOLDEN + " -k both_heads",
            # ShapeProp
        ),
        (
            "ShapeProp: weights are not divided by their sum",
            SHAPEPROP + "propagation.py",
            "weights.clone(memory_format=torch.contiguous_format).div_(total)",
            "weights.clone(memory_format=torch.contiguous_format)",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: a weight's gradient without that of their sum",
            SHAPEPROP + "propagation.py",
            "of_weights.sub_(along).div_(total)",
            "of_weights.div_(total)",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: neighbours turned around",
            SHAPEPROP + "propagation.py",
            "yield padded[row : row + height, column : column + width]",
            "yield padded[column : column + height, row : row + width]",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: the border keeps its activation",
            SHAPEPROP + "propagation.py",
            "maps = latent.new_zeros(steps + 1,",
            "maps = latent.new_ones(steps + 1,",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: weights get the gradient of one step",
            SHAPEPROP + "propagation.py",
            "of_weight.addcmul_(gradient, neighbour)",
            "of_weight.copy_(gradient * neighbour)",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: steps of the shorter side",
            SHAPEPROP + "shape_head.py",
            "steps = max(saliency.shape[-2:])",
            "steps = min(saliency.shape[-2:])",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: saliency detached",
            SHAPEPROP + "shape_head.py",
            "self.decoder(propagate(self.encoder(saliency),",
            "self.decoder(propagate(self.encoder(saliency.detach()),",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: maximum instead of mean of a class map",
            SHAPEPROP + "shape_head.py",
            "logits = class_maps.float().mean((-2, -1))",
            "logits = class_maps.float().amax((-2, -1))",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: 1x1 layers start hotter",
            SHAPEPROP + "shape_head.py",
            'nonlinearity="leaky_relu"',
            'nonlinearity="relu"',
            SHAPE + " -k initial",
        ),
        (
            "ShapeProp: shape before the RoI channels",
            SHAPEPROP + "mask_head.py",
            "super().forward(roi_features, None, encoded.to(roi_features.dtype))",
            "super().forward(encoded.to(roi_features.dtype), None, roi_features)",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: shape not scaled to its maximum",
            SHAPEPROP + "mask_head.py",
            "return positive / (positive.amax((-2, -1), keepdim=True) + EPSILON)",
            "return positive",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: gradient stops at the maximum",
            SHAPEPROP + "mask_head.py",
            "(positive.amax((-2, -1), keepdim=True) + EPSILON)",
            "(positive.detach().amax((-2, -1), keepdim=True) + EPSILON)",
            SHAPE_GOLDEN,
        ),
        (
            "ShapeProp: novel RoIs in the losses",
            SHAPEPROP + "roi_head.py",
            "in_loss = ~is_novel",
            "in_loss = is_novel | True",
            SHAPE + " -k 'base_ones_alone or empty_cases'",
        ),
        (
            "ShapeProp: background without a label of its own",
            SHAPEPROP + "roi_head.py",
            "(count - len(positive),), self.bbox_head.num_classes)",
            "(count - len(positive),), 0)",
            SHAPE + " -k base_ones_alone",
        ),
        (
            "ShapeProp: rows of positives counted from the first image",
            SHAPEPROP + "roi_head.py",
            "first += count",
            "first += 0",
            SHAPE + " -k base_ones_alone",
        ),
        (
            "ShapeProp: box head of released weights shifted by a class",
            SHAPEPROP + "released_checkpoint.py",
            "return torch.cat([tensor[1:], tensor[:1]])",
            "return tensor.clone()",
            "tests/methods/test_shapeprop_golden.py -k and_back",
        ),
        # Mask GrabCut
        (
            "GrabCut: probable background is object",
            GRABCUT + "cut.py",
            "FOUND = (cv2.GC_FGD, cv2.GC_PR_FGD)",
            "FOUND = (cv2.GC_FGD, cv2.GC_PR_BGD)",
            CUT,
        ),
        (
            "GrabCut: not seeded",
            GRABCUT + "cut.py",
            "    cv2.setRNGSeed(SEED)  # of this thread\n",
            "    # of this thread\n",
            CUT,
        ),
        (
            "GrabCut: seeded otherwise",
            GRABCUT + "cut.py",
            "SEED = 0\n",
            "SEED = 1\n",
            CUT,
        ),
        (
            "GrabCut: half the margin",
            GRABCUT + "cut.py",
            "round(rule.margin * side)",
            "round(rule.margin * side / 2)",
            CUT,
        ),
        (
            "GrabCut: no least margin",
            GRABCUT + "cut.py",
            "max(rule.least_margin, round",
            "max(0, round",
            CUT,
        ),
        (
            "GrabCut: other sides' margin",
            GRABCUT + "cut.py",
            "for side in (x2 - x1, y2 - y1))\n    return",
            "for side in (y2 - y1, x2 - x1))\n    return",
            CUT,
        ),
        (
            "GrabCut: inside is object for certain",
            GRABCUT + "cut.py",
            "x1 - left : x2 - left] = cv2.GC_PR_FGD",
            "x1 - left : x2 - left] = cv2.GC_FGD",
            CUT,
        ),
        (
            "GrabCut: wider centre",
            GRABCUT + "cut.py",
            "first + round((1 - rule.centre) / 2 * side)",
            "first + round((1 - rule.centre) / 4 * side)",
            CUT,
        ),
        (
            "GrabCut: one iteration",
            GRABCUT + "cut.py",
            "labels, None, *models, iterations,",
            "labels, None, *models, 1,",
            CUT,
        ),
        (
            "GrabCut: empty masks stay empty",
            GRABCUT + "cut.py",
            "return mask if mask.sum() >= max(1, rule.least_share * whole.sum()) else whole",
            "return mask",
            CUT,
        ),
        (
            "GrabCut: small boxes are cut",
            GRABCUT + "cut.py",
            "< rule.smallest:",
            "< 1:",
            CUT,
        ),
        (
            "GrabCut: failures of OpenCV are raised",
            GRABCUT + "cut.py",
            "    except cv2.error:\n",
            "    except KeyError:\n",
            CUT,
        ),
        (
            "GrabCut: image as BGR",
            GRABCUT + "detector.py",
            "return np.ascontiguousarray(image[..., ::-1])",
            "return np.ascontiguousarray(image)",
            CUT,
        ),
        (
            "GrabCut: masks of the first category alone",
            GRABCUT + "detector.py",
            "return [[masks[box] for box in of_class] for of_class in whole]",
            "return [[masks[box] for box in whole[0]] for of_class in whole]",
            CUT,
        ),
        (
            "GrabCut: novel objects still count as such",
            GRABCUT + "training_masks.py",
            'results["gt_is_novel"] = np.zeros_like(is_novel)',
            'results["gt_is_novel"] = is_novel',
            CUT,
        ),
        (
            "GrabCut: masks of base objects are cut too",
            GRABCUT + "training_masks.py",
            'masks[is_novel] = self.masks(results["img"], results["gt_bboxes"][is_novel])',
            'masks[:] = self.masks(results["img"], results["gt_bboxes"])',
            CUT,
        ),
        (
            "GrabCut: kept whatever the rule",
            GRABCUT + "training_masks.py",
            "json.dumps([self.rule.identity(), image.shape, boxes], sort_keys=True)",
            "json.dumps([image.shape, boxes], sort_keys=True)",
            CUT,
        ),
        # Scoring
        ("AP75", "pipeline/tasks/instances/scoring.py", '"AP75": 5', '"AP75": 4', PARITY),
        (
            "groups of the scores",
            "pipeline/tasks/instances/scoring.py",
            "if category in wanted]",
            "if category not in wanted]",
            PARITY,
        ),
        (
            "small objects",
            "pipeline/tasks/instances/scoring.py",
            '("all", "small", "medium", "large")',
            '("all", "medium", "small", "large")',
            PARITY,
        ),
        (
            "undefined precisions count",
            "pipeline/tasks/instances/scoring.py",
            "values[values > -1].mean()",
            "values.mean()",
            PARITY,
        ),
        # CPMask
        (
            "dilation of a boundary sees foreground outside",
            CPMASK + "boundary.py",
            "_crosses(masks, outside=False).any(0)",
            "_crosses(masks, outside=True).any(0)",
            CPMASK_PARTS,
        ),
        (
            "erosion of a boundary sees background outside",
            CPMASK + "boundary.py",
            "_crosses(masks, outside=True).all(0)",
            "_crosses(masks, outside=False).all(0)",
            CPMASK_PARTS,
        ),
        (
            "boundary inside alone",
            CPMASK + "boundary.py",
            "return dilate(masks) ^ erode(masks)",
            "return masks ^ erode(masks)",
            CPMASK_PARTS,
        ),
        (
            "epsilon behind the attention",
            CPMASK + "affinity.py",
            "BATCH_NORM_EPS = 1e-4",
            "BATCH_NORM_EPS = 1e-5",
            CPMASK_NUMBERS,
        ),
        (
            "biased deviation of queries",
            CPMASK + "affinity.py",
            "/ max(rows.shape[1] - 1, 1)",
            "/ rows.shape[1]",
            CPMASK_PARTS,
        ),
        (
            "temperature of the attention",
            CPMASK + "affinity.py",
            "query.transpose(1, 2) @ key / x.shape[1] ** 0.5",
            "query.transpose(1, 2) @ key / x.shape[1]",
            CPMASK_NUMBERS,
        ),
        ("attention over queries", CPMASK + "affinity.py", "** 0.5).softmax(-1)", "** 0.5).softmax(1)", CPMASK_PARTS),
        (
            "attention turned round",
            CPMASK + "affinity.py",
            "value @ affinity.transpose(1, 2)",
            "value @ affinity",
            CPMASK_NUMBERS,
        ),
        (
            "batch mean over RoIs that do not count",
            CPMASK + "affinity.py",
            "torch.where(cells, x, 0.0).sum((0, 2, 3))",
            "x.sum((0, 2, 3))",
            CPMASK_PARTS,
        ),
        (
            "running variance biased",
            CPMASK + "affinity.py",
            "variance * number / (number - 1).clamp(min=1)",
            "variance",
            CPMASK_PARTS,
        ),
        ("one foreground cell is a pair", CPMASK + "affinity.py", "FEWEST_CELLS = 2", "FEWEST_CELLS = 1", CPMASK_PARTS),
        (
            "cells of the affinity shifted",
            CPMASK + "affinity.py",
            "masks[:, ::step, ::step]",
            "masks[:, 1::step, ::step]",
            CPMASK_PARTS,
        ),
        (
            "boundary added without a gate",
            CPMASK + "mask_head.py",
            "self.transform(x + parsed * self._gate(x, parsed))",
            "self.transform(x + parsed)",
            CPMASK_NUMBERS,
        ),
        (
            "gate sees boundary before feature",
            CPMASK + "mask_head.py",
            "torch.cat([x, parsed], 1)",
            "torch.cat([parsed, x], 1)",
            CPMASK_NUMBERS,
        ),
        (
            "boundary loss at full weight",
            CPMASK + "mask_head.py",
            "self.boundary_loss_weight * _cross_entropy(",
            "_cross_entropy(",
            CPMASK_NUMBERS,
        ),
        (
            "affinity loss trains where it is not to",
            CPMASK + "mask_head.py",
            "if not self.affinity_gradient:",
            "if self.affinity_gradient:",
            CPMASK_PARTS,
        ),
        (
            "initial predictors ten times larger",
            CPMASK + "mask_head.py",
            "PREDICTOR_STD = 0.001",
            "PREDICTOR_STD = 0.01",
            CPMASK_PARTS,
        ),
        (
            "novel RoIs in the batch statistics",
            CPMASK + "roi_head.py",
            "forward_with_boundary(features, in_loss[rows])",
            "forward_with_boundary(features)",
            CPMASK_STEP,
        ),
        (
            "novel RoIs in the losses of CPMask",
            CPMASK + "roi_head.py",
            "self.mask_head.loss(*predicted, masks[rows], in_loss[rows])",
            "self.mask_head.loss(*predicted, masks[rows], in_loss[rows] | True)",
            CPMASK_STEP,
        ),
        (
            "base objects as they are drawn",
            CPMASK + "roi_head.py",
            "if mask_loss_rois == BASE_GT:",
            "if mask_loss_rois == BASE_GT and sampled is None:",
            CPMASK_OBJECTS,
        ),
        (
            "score of FCOS without its root",
            SHARED + "fcos_head.py",
            "found[0][:, 4].sqrt_()",
            "found[0][:, 4]",
            CPMASK_FCOS,
        ),
        ("ranges of FCOS's levels", SHARED + "one_stage.py", "REACH = 8", "REACH = 4", CPMASK_FCOS),
        # ShapeMask
        (
            "noise on a box without the exponential",
            SHAPEMASK_SHARED + "geometry.py",
            "half = 0.5 * size * noise[..., 2:].exp()",
            "half = 0.5 * size * (1 + noise[..., 2:])",
            SHAPES_GOLDEN,
        ),
        (
            "outer box as large as the box",
            SHAPEMASK_SHARED + "geometry.py",
            "0.5 * scale * size",
            "0.5 * size",
            SHAPES_GOLDEN,
        ),
        (
            "prior seen half a cell off",
            SHAPEMASK_SHARED + "geometry.py",
            "sampled = start[..., None] + place * size[..., None] / cells",
            "sampled = start[..., None] + (place + 0.5) * size[..., None] / cells",
            SHAPES_GOLDEN,
        ),
        (
            "frames of mask targets by the last pixel",
            SHAPEMASK_SHARED + "geometry.py",
            "low, high = (sides / length).unbind(1)",
            "low, high = (sides / (length - 1)).unbind(1)",
            SHAPES_GOLDEN,
        ),
        (
            "RoI features half a pixel off",
            SHAPEMASK_SHARED + "roi_extractor.py",
            "super().forward(feats, rois + shift, roi_scale_factor)",
            "super().forward(feats, rois, roi_scale_factor)",
            SHAPES_GOLDEN,
        ),
        (
            "prior from cells outside of the box",
            SHAPEMASK_SHARED + "head.py",
            "pooled = (features * inside[:, None]).mean((2, 3))",
            "pooled = features.mean((2, 3))",
            SHAPES_GOLDEN,
        ),
        (
            "soft mean over the coarse mask",
            SHAPEMASK_SHARED + "head.py",
            "chosen = (probabilities > 0.5).float()[:, None]",
            "chosen = probabilities.float()[:, None]",
            SHAPES_GOLDEN,
        ),
        (
            "fine loss stops at the coarse mask",
            SHAPEMASK_SHARED + "head.py",
            "probabilities = coarse.sigmoid()",
            "probabilities = coarse.detach().sigmoid()",
            SHAPES_GOLDEN,
        ),
        (
            "epsilon of the batch norm",
            SHAPEMASK_SHARED + "head.py",
            "EPSILON = 1e-4",
            "EPSILON = 1e-5",
            SHAPES_GOLDEN,
        ),
        (
            "normaliser counts novel foreground",
            SHAPEMASK_SHARED + "head.py",
            "torch.where(counted, targets, 0.0).sum().clamp(min=1)",
            "targets.sum().clamp(min=1)",
            SHAPES_GOLDEN,
        ),
        (
            "no foreground explodes",
            SHAPEMASK_SHARED + "head.py",
            "torch.where(counted, targets, 0.0).sum().clamp(min=1)",
            "(torch.where(counted, targets, 0.0).sum() + 1e-20)",
            f"{SHAPES} -k without_foreground",
        ),
        (
            "prior loss without its half",
            SHAPEMASK_SHARED + "head.py",
            "return 0.5 * _by_foreground(",
            "return _by_foreground(",
            SHAPES_GOLDEN,
        ),
        (
            "kernels of transposed convolutions turned",
            SHAPEMASK + "released_checkpoint.py",
            "t.permute(3, 2, 0, 1)",
            "t.permute(2, 3, 0, 1)",
            SHAPES_GOLDEN,
        ),
        (
            "novel instances in the losses of ShapeMask",
            SHAPEMASK_SHARED + "roi_head.py",
            "in_loss = instances.valid & ~is_novel",
            "in_loss = instances.valid",
            f"{SHAPES} -k change_no_loss",
        ),
        (
            "masks pasted into the box itself",
            SHAPEMASK_SHARED + "roi_head.py",
            "frames = geometry.outer(rois[:, 1:], self.outer_box, *self._input_size(x)).split(counts)",
            "frames = geometry.outer(rois[:, 1:], 1.0, *self._input_size(x)).split(counts)",
            f"{SHAPES} -k outer_box",
        ),
        (
            "an object in all places of an image",
            SHAPEMASK_SHARED + "roi_head.py",
            "owners = order.gather(1, place % there.clamp(min=1))",
            "owners = order.gather(1, place * 0 % there.clamp(min=1))",
            f"{SHAPES} -k drawn_evenly",
        ),
        (
            "novel masks in the priors",
            SHAPEMASK + "clusters.py",
            'annotation["category_id"] not in base or annotation.get("iscrowd")',
            'annotation.get("iscrowd")',
            f"{SHAPES} -k change_no_prior",
        ),
        (
            "other priors, the same training",
            "pipeline/declaration/recipe.py",
            "    if training.priors:",
            "    if not training.priors:",
            f"{SHAPES} -k another_training",
        ),
        (
            "finest level of the full model",
            SHAPEMASK_SHARED + "parts.py",
            "sizes.finest_scale * 2**first",
            "sizes.finest_scale",
            f"{SHAPES} -k full_model",
        ),
        (
            "RetinaNet's normaliser",
            SHARED + "retina_head.py",
            "for level in labels) + 1",
            "for level in labels) + 2",
            f"{SHAPES_RETINA} -k losses_of_boxes",
        ),
        (
            "RetinaNet's box loss",
            SHARED + "retina.py",
            "BOX_WEIGHT * HUBER / 4",
            "BOX_WEIGHT / 4",
            f"{SHAPES_RETINA} -k losses_of_boxes",
        ),
        (
            "levels that masks on RetinaNet are pooled from",
            SHAPEMASK_SHARED + "parts.py",
            "num_classes, strides, finest, 0)",
            "num_classes, strides[:-1], finest, 0)",
            f"{SHAPES_RETINA} -k 'outer_boxes or full_size'",
        ),
        (
            "priors of a method of its own on RetinaNet",
            "pipeline/methods/__init__.py",
            "    owner = _owner(method(name).priors)",
            "    owner = method(name).priors and name",
            f"{SHAPES_RETINA} -k same_priors",
        ),
        *SIMFORMER,
    )
]


def edited(mutant, root=ROOT):
    """The text of a mutant's file with the edit. Raises ExperimentError if the edit does not apply."""
    text = (Path(root) / mutant.file).read_text()
    if (count := text.count(mutant.old)) != 1 or mutant.old == mutant.new:
        raise ExperimentError(
            f"benchmarks/mutants.py: mutant {mutant.name!r} does not apply: {mutant.old.strip()!r} occurs {count} "
            f"times in {mutant.file}; bring the edit up to date"
        )
    return text.replace(mutant.old, mutant.new)


def copy_tree(target):
    """Copy what Git tracks or would track of the working tree."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("reports/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def test(root, arguments):
    """Run pytest in a copy. Returns 'passed', 'failed' or 'timeout'. Raises ExperimentError if no test ran."""
    log = root.with_suffix(".log")
    process = multiprocessing.get_context("fork").Process(target=_run_pytest, args=(root, arguments, log))
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        return "timeout"
    if process.exitcode not in (0, 1, 2):  # 2: a test file that cannot even be imported
        raise ExperimentError(f"`pytest {arguments}` ran no test: {log.read_text().strip().splitlines()[-1]}")
    return "failed" if process.exitcode else "passed"


def _run_pytest(root, arguments, log):
    """Be the test run of a copy: its packages instead of this one's, the libraries as they are."""
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(root)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(root), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, root))]
    for name in [name for name in sys.modules if name.split(".")[0] in OWN or name == "__main__"]:
        del sys.modules[name]
    code = importlib.import_module("pytest").main(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(arguments)])
    sys.stdout.flush()
    os._exit(int(code))


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name or file contains this")
    parser.add_argument("--list", action="store_true", help="name them, run nothing")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if arguments.only in mutant.name or arguments.only in mutant.file]
    if not chosen:
        raise ExperimentError(f"no mutant has {arguments.only!r} in its name or file; --list names all")
    for mutant in chosen:
        edited(mutant)
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.file:<45} {mutant.name}")
        return
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    kept = [importlib.import_module(name) for name in LIBRARIES]  # compat holds a library for as long as it lives
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        root = Path(folder) / "copy"
        copy_tree(root)
        for selection in dict.fromkeys(mutant.tests for mutant in chosen):
            if test(root, selection) != "passed":
                raise ExperimentError(f"`pytest {selection}` fails without any edit; mend that first")
        for mutant in chosen:
            original, began = (root / mutant.file).read_text(), time.monotonic()
            (root / mutant.file).write_text(edited(mutant, root))
            outcome = test(root, mutant.tests)
            (root / mutant.file).write_text(original)
            word = {"passed": "SURVIVED", "failed": "caught", "timeout": "caught (timeout)"}[outcome]
            print(f"{word:<9} {time.monotonic() - began:5.1f} s  {mutant.file}: {mutant.name}", flush=True)
            if outcome == "passed":
                survivors.append(mutant)
    del kept
    print(f"mutants={len(chosen)} caught={len(chosen) - len(survivors)} survived={len(survivors)}")
    for mutant in survivors:
        print(f"survived: {mutant.file}: {mutant.name}: {mutant.old.strip()!r} -> {mutant.new.strip()!r}")
    if survivors:
        raise ExperimentError(f"{len(survivors)} of {len(chosen)} wrong edits were noticed by none of their tests")


if __name__ == "__main__":
    main()
