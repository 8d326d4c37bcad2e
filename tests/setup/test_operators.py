"""The compiled operators of mmcv-full that the models run or MMDetection imports, against calculations of our own."""

import importlib
import pkgutil
import re
from pathlib import Path

import mmcv
import mmdet.models
import pytest
import torch
from mmcv import _ext, ops
from torch.nn import functional

# mmcv-full has no CPU kernel of these; MMDetection imports them.
GPU_ALONE = {
    "roi_pool": lambda: ops.roi_pool(torch.rand(1, 2, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), 2),
    "sigmoid_focal_loss": lambda: ops.sigmoid_focal_loss(torch.rand(4, 3), torch.zeros(4, dtype=torch.long)),
    "carafe": lambda: ops.carafe(torch.rand(1, 4, 4, 4), torch.rand(1, 9, 8, 8), 3, 1, 2),
}


@pytest.fixture
def boxes():
    """40 overlapping boxes and their scores."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * 30
    sizes = torch.rand(40, 2, generator=generator) * 20 + 1
    return torch.cat([corners, corners + sizes], 1), torch.rand(40, generator=generator)


def overlap(box, others):
    """Intersection over union of a box (4,) with boxes (n, 4)."""
    sides = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    shared = sides.clamp(min=0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)


def groups_of_nms(boxes, scores, threshold):
    """Indices of the boxes kept by non-maximum suppression, each with those it suppresses."""
    waiting, groups = scores.argsort(descending=True), []
    while len(waiting):
        near = overlap(boxes[waiting[0]], boxes[waiting[1:]]) > threshold
        groups.append([int(waiting[0]), *waiting[1:][near].tolist()])
        waiting = waiting[1:][~near]
    return groups


def test_the_extension_exports_all_that_its_source_lists():
    source = Path(mmcv.__file__).parent / "ops" / "csrc" / "pytorch" / "pybind.cpp"
    listed = set(re.findall(r'm\.def\(\s*"(\w+)"', source.read_text()))
    assert len(listed) > 90
    assert listed <= set(dir(_ext))


def test_all_of_mmdetections_models_import():
    for module in pkgutil.walk_packages(mmdet.models.__path__, "mmdet.models."):
        importlib.import_module(module.name)


def test_nms_and_nms_match(boxes):
    groups = groups_of_nms(*boxes, 0.4)
    kept, indices = ops.nms(*boxes, 0.4)
    assert indices.tolist() == [group[0] for group in groups]
    assert torch.equal(kept, torch.cat([boxes[0], boxes[1][:, None]], 1)[indices])
    matched = ops.nms_match(torch.cat([boxes[0], boxes[1][:, None]], 1), 0.4)
    assert [sorted(group.tolist()) for group in matched] == [sorted(group) for group in groups]


def test_batched_nms_keeps_categories_apart(boxes):
    categories = torch.arange(40) % 3
    _, indices = ops.batched_nms(*boxes, categories, {"type": "nms", "iou_threshold": 0.4})
    expected = set()
    for category in range(3):
        own = torch.nonzero(categories == category)[:, 0]
        expected |= {int(own[group[0]]) for group in groups_of_nms(boxes[0][own], boxes[1][own], 0.4)}
    assert set(indices.tolist()) == expected


def test_linear_soft_nms(boxes):
    scores, left, expected = boxes[1].clone(), list(range(40)), {}
    while left:
        best = max(left, key=scores.__getitem__)
        left.remove(best)
        expected[best] = float(scores[best])
        shares = overlap(boxes[0][best], boxes[0][left])
        scores[left] *= torch.where(shares > 0.4, 1 - shares, 1)
        left = [index for index in left if scores[index] > 0.1]
    found, indices = ops.soft_nms(*boxes, iou_threshold=0.4, min_score=0.1, method="linear")
    assert indices.tolist() == list(expected)
    torch.testing.assert_close(found[:, 4], torch.tensor(list(expected.values())))


def test_roi_align_averages_bilinear_samples():
    features = torch.rand(1, 2, 12, 12, dtype=torch.double, requires_grad=True)
    rois = torch.tensor([[0, 4.0, 6.0, 14.0, 18.0]], dtype=torch.double)

    def align(features):
        return ops.roi_align(features, rois, (2, 2), 0.5, 2, "avg", True)

    # 4 x 4 samples in the box, which is halved and moved by half a cell; then 2 x 2 of them a cell.
    steps = (torch.arange(4, dtype=torch.double) + 0.5) / 4
    x, y = 1.5 + 5 * steps, 2.5 + 6 * steps
    grid = torch.stack([x.expand(4, 4), y[:, None].expand(4, 4)], 2)[None] / 11 * 2 - 1
    samples = functional.grid_sample(features, grid, align_corners=True)
    torch.testing.assert_close(align(features), functional.avg_pool2d(samples, 2))
    gradient = torch.rand(1, 2, 2, 2, dtype=torch.double)
    ours = torch.autograd.grad(functional.avg_pool2d(samples, 2), features, gradient)
    torch.testing.assert_close(torch.autograd.grad(align(features), features, gradient), ours)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution_samples_where_the_offset_points(modulated):
    images, weight = torch.rand(2, 3, 9, 9, dtype=torch.double), torch.rand(4, 3, 3, 3, dtype=torch.double)
    offset = torch.zeros(2, 18, 9, 9, dtype=torch.double)
    offset[:, 1::2] = 1  # offsets are pairs (y, x): one pixel to the right
    shifted = functional.pad(images[..., 1:], (1, 2, 1, 1))
    if modulated:
        mask = torch.full((2, 9, 9, 9), 0.5, dtype=torch.double)
        found = ops.modulated_deform_conv2d(images, offset, mask, weight, None, 1, 1)
        expected = functional.conv2d(shifted, weight) / 2
    else:
        found = ops.deform_conv2d(images, offset, weight, 1, 1)
        expected = functional.conv2d(shifted, weight)
    torch.testing.assert_close(found[..., 1:], expected[..., 1:])


@pytest.mark.parametrize("modulated", [False, True])
def test_gradients_of_deformable_convolution(modulated):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, dtype=torch.double, generator=generator).requires_grad_()

    images, weight, offset, mask = draw(1, 2, 4, 4), draw(2, 2, 3, 3), draw(1, 18, 4, 4), draw(1, 9, 4, 4)
    if modulated:
        assert torch.autograd.gradcheck(
            lambda i, o, m, w: ops.modulated_deform_conv2d(i, o, m, w, None, 1, 1), (images, offset, mask, weight)
        )
    else:
        assert torch.autograd.gradcheck(lambda i, o, w: ops.deform_conv2d(i, o, w, 1, 1), (images, offset, weight))


@pytest.mark.parametrize("name", GPU_ALONE)
def test_operators_without_a_cpu_kernel_say_so(name):
    with pytest.raises(RuntimeError, match=f"{name}_forward_impl: implementation for device cpu not found"):
        GPU_ALONE[name]()
