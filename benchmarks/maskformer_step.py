"""python -m benchmarks.maskformer_step: a training step and the inference of SimFormer beside MMDetection's MaskFormer.

Both are built from one configuration, with the same random weights, and take turns in one process on the same noise
with drawn label maps: some base classes, two novel ones, and a part without label. A step is forward, losses, backward
and AdamW's update, without pixel pairs, which MaskFormer does not have. MaskFormer learns the base masks alone,
SimFormer the labels of the novel classes and the complementary loss as well.

Inference gives a map of the best class at twice the size. MMDetection predicts panoptic maps: `panoptic` is its own
`simple_test`. `semantic` puts the paper's inference for label maps, which MMDetection leaves out, behind its network.
Times are processor time on a CPU and wall time on a GPU, medians of the repeats. The last line has the ratios.

    python -m benchmarks.maskformer_step                                                    # embedded profile
    python -m benchmarks.maskformer_step --profile full_maps --classes 171 --images 1 --height 320 --width 320
"""

import argparse
import copy
import statistics
import time

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
import numpy as np
import torch
from mmdet.core import BitmapMasks
from mmdet.models import build_detector

from pipeline import methods
from pipeline.declaration import experiments
from pipeline.methods.simformer.sizes import Sizes
from pipeline.training.losses import total

NOVEL, MASKS = 2, 6  # novel classes and base masks of an image
SCALE = 2  # of the original image, to the network's input


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="embedded_maps", help="of pipeline/experiments/profiles.yaml")
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {args.device}, one thread, profile {args.profile}, {args.images} images of "
        f"{args.height}x{args.width}, {args.classes} classes, median of {args.repeats}"
    )
    ours, theirs = (model.to(args.device) for model in build(args))
    given = Batch(args)
    works = {
        "step": {
            "ours": step(ours, lambda: ours.forward_train(**given.ours)),
            "theirs": step(theirs, given.of(theirs)),
        },
        "inference": {
            "ours": lambda: ours.simple_test(given.image, given.metas),
            "semantic": lambda: semantic(theirs, given),
            "panoptic": lambda: theirs.simple_test(given.image, given.metas, rescale=True),
        },
    }
    ratios = []
    for kind, ways in works.items():
        training = kind == "step"
        for model in (ours, theirs):
            model.train(training)
        with torch.set_grad_enabled(training):
            found = alternated(ways, args)
        for way, milliseconds in found.items():
            print(f"{kind:<12}{way:<10}{milliseconds:>10.1f} ms{found['ours'] / milliseconds:>8.2f}")
            if way != "ours":
                ratios.append(f"{kind}_times_{way}={found['ours'] / milliseconds:.3f}")
    print(*ratios)


def build(args):
    """SimFormer without pairs and MMDetection's MaskFormer of the same parts and weights."""
    profile = experiments.load().profiles[args.profile]
    room = methods.method("simformer")
    knobs = room.preset("paper", pairs="none")
    methods.register("simformer", knobs)
    sizes = Sizes(**profile["architecture"].get("simformer", {}))
    config = room.model(knobs, sizes, profile["backbones"]["r50"], args.classes)
    torch.manual_seed(0)
    ours = build_detector(mmcv.ConfigDict(config))
    theirs = build_detector(mmcv.ConfigDict(maskformer(config, sizes, args.classes)))
    state = {name: value for name, value in ours.state_dict().items() if name in theirs.state_dict()}
    theirs.load_state_dict(state, strict=False)
    assert state.keys() >= {name for name, _ in theirs.named_parameters()}
    return ours, theirs


def maskformer(config, sizes, classes):
    """The configuration of MMDetection's MaskFormer with the parts of another one, its own losses and matching."""
    head = copy.deepcopy(config["panoptic_head"])
    for key in ("weights", "complementary_logit", "pixel_pairs"):
        del head[key]
    focal = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "reduction": "mean"}
    dice = {"type": "DiceLoss", "use_sigmoid": True, "activate": True, "naive_dice": True, "eps": 1.0}
    empty = [1.0] * classes + [sizes.no_object_weight]
    head |= {
        "type": "MaskFormerHead",
        "loss_cls": {"type": "CrossEntropyLoss", "loss_weight": sizes.class_weight, "class_weight": empty},
        "loss_mask": focal | {"loss_weight": sizes.focal_weight},
        "loss_dice": dice | {"loss_weight": sizes.dice_weight, "reduction": "mean"},
    }
    assigner = {
        "type": "MaskHungarianAssigner",
        "cls_cost": {"type": "ClassificationCost", "weight": sizes.class_weight},
        "mask_cost": {"type": "FocalLossCost", "weight": sizes.focal_weight, "binary_input": True},
        "dice_cost": {"type": "DiceCost", "weight": sizes.dice_weight, "pred_act": True, "eps": 1.0},
    }
    counts = {"num_things_classes": 0, "num_stuff_classes": classes}
    return {
        "type": "MaskFormer",
        "backbone": config["backbone"],
        "panoptic_head": head,
        "panoptic_fusion_head": {"type": "MaskFormerFusionHead", **counts, "loss_panoptic": None},
        "train_cfg": {"assigner": assigner, "sampler": {"type": "MaskPseudoSampler"}},
        # Every query competes, as it does for the best class: random weights are sure of nothing.
        "test_cfg": {"panoptic_on": True, "object_mask_thr": 0.0, "iou_thr": 0.0, "filter_low_score": False},
    }


class Batch:
    """The same images for both.

    Attributes:
        ours: arguments of our `forward_train`.
        image, metas: of an inference of one image.
    """

    def __init__(self, args):
        rng = np.random.default_rng(0)
        size, device = (args.height, args.width), args.device
        images = torch.from_numpy(rng.standard_normal((args.images, 3, *size)).astype(np.float32)).to(device)
        base = np.arange(args.classes - NOVEL)
        maps = np.stack([draw(rng, size, rng.choice(base, min(MASKS, len(base)), replace=False)) for _ in images])
        self.maps = torch.from_numpy(maps).to(device)
        shape, original = (*size, 3), (SCALE * size[0], SCALE * size[1], 3)
        meta = {"img_shape": shape, "pad_shape": shape, "ori_shape": original, "batch_input_shape": size}
        novel = torch.arange(args.classes - NOVEL, args.classes)
        self.ours = {
            "img": images,
            "img_metas": [dict(meta) for _ in images],
            "gt_semantic_seg": self.maps,
            "novel_labels": [novel for _ in images],
        }
        nothing = BitmapMasks(np.zeros((0, *size), np.uint8), *size)
        self.theirs = {
            "gt_bboxes": [torch.zeros(0, 4, device=device) for _ in images],
            "gt_labels": [torch.zeros(0, dtype=torch.long, device=device) for _ in images],
            "gt_masks": [nothing for _ in images],
            "gt_semantic_seg": self.maps[:, None],
        }
        self.image, self.metas = images[:1], [dict(meta)]

    def of(self, model):
        """A function that gives the losses of MMDetection's model."""
        return lambda: model.forward_train(self.ours["img"], self.ours["img_metas"], **self.theirs)


def draw(rng, size, classes):
    """A map of blocks of some classes, a tenth of them without label, int64 [H, W]."""
    side = max(1, size[0] // 8)
    grid = [-(-length // side) for length in size]
    blocks = np.where(rng.random(grid) < 0.1, 255, rng.choice(classes, grid))
    return blocks.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]].astype(np.int64)


def step(model, losses):
    """A function that makes a training step."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def run():
        optimiser.zero_grad()
        total(losses())[0].backward()
        optimiser.step()

    return run


def semantic(model, given):
    """The paper's inference of label maps behind MMDetection's network: scores of classes, cut, resized, the best."""
    logits, masks = model.panoptic_head.simple_test(model.extract_feat(given.image), given.metas)
    found = []
    for logit, mask, meta in zip(logits, masks, given.metas, strict=True):
        scores = torch.einsum("qk,qhw->khw", logit.softmax(-1)[:, :-1], mask.sigmoid())
        height, width = meta["img_shape"][:2]
        scores = torch.nn.functional.interpolate(
            scores[None, :, :height, :width], meta["ori_shape"][:2], mode="bilinear", align_corners=False
        )
        found.append(scores[0].argmax(0).cpu().numpy())
    return found


def alternated(ways, args):
    """{way: median milliseconds}; the ways take turns, the first turn also sets up."""
    clock, spent = time.process_time if args.device == "cpu" else time.perf_counter, {way: [] for way in ways}
    for number in range(args.repeats + 1):
        for way in list(ways) if number % 2 else list(ways)[::-1]:
            if args.device != "cpu":
                torch.cuda.synchronize()
            start = clock()
            ways[way]()
            if args.device != "cpu":
                torch.cuda.synchronize()
            spent[way].append(1000 * (clock() - start))
    return {way: statistics.median(times[1:]) for way, times in spent.items()}


if __name__ == "__main__":
    main()
