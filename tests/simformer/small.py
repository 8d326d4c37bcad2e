"""A small SimFormer and made-up batches for tests."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import torch
from mmcv import ConfigDict
from mmdet.models import build_detector

from pipeline import methods
from pipeline.methods.simformer.sizes import Sizes

K = 7
NOVEL = (1, 4, 6)
SIZES = Sizes(
    channels=16,
    queries=9,
    decoder_layers=2,
    heads=2,
    feedforward=16,
    dropout=0.0,
    norm_groups=4,
    similarity_channels=8,
    similarity_blocks=2,
)
BACKBONE = {
    "type": "ResNet",
    "depth": 18,
    "base_channels": 8,
    "stem_channels": 8,
    "frozen_stages": -1,
    "norm_eval": True,
    "style": "pytorch",
}


def knobs(recipe="paper", **changed):
    return methods.method("simformer").preset(recipe, **{"points": 20} | changed)


def config(recipe="paper", sizes=SIZES, backbone=BACKBONE, **changed):
    chosen = knobs(recipe, **changed)
    methods.register("simformer", chosen)
    return methods.method("simformer").model(chosen, sizes, backbone, K)


def model(recipe="paper", seed=0, **changed):
    """Trained by nothing, in training mode."""
    torch.manual_seed(seed)
    built = build_detector(ConfigDict(config(recipe, **changed)))
    built.init_weights()
    return built.train()


def batch(maps, novel_labels, shapes=None, seed=0):
    """Arguments of `forward_train` for label maps [B, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes or [maps.shape[1:]] * len(maps)
    return {
        "img": torch.randn(len(maps), 3, *maps.shape[1:], generator=generator),
        "img_metas": [{"img_shape": (*shape, 3), "novel_classes": list(NOVEL)} for shape in shapes],
        "gt_semantic_seg": maps,
        "novel_labels": [torch.tensor(labels, dtype=torch.long) for labels in novel_labels],
    }


def pair_of_maps():
    """Two maps [2, 64, 64] of base classes 0, 2, 3, with a common base class and common novel labels."""
    maps = torch.full((2, 64, 64), 255)
    maps[0, :32, :40], maps[0, 32:, :16], maps[0, :, 56:] = 0, 2, 3
    maps[1, 20:, 30:], maps[1, :20] = 2, 5
    return maps, [[1, 4], [4]]


def total(losses):
    return sum(losses.values())


def gradients(built):
    return {name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None}
