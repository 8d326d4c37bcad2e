"""Losses against plain loops, written from the text alone, on drawn sizes and values."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from pipeline.methods.simformer.head import Predictions
from pipeline.methods.simformer.pixel_pairs import distilled
from pipeline.methods.simformer.points import Cells
from pipeline.methods.simformer.targets import targets_of
from tests.simformer import small

SIZES = [(7, 9, 3, (48, 64), 0), (5, 12, 2, (32, 32), 1), (11, 4, 4, (64, 32), 2)]  # K, Q, B, pixels, seed


def focal(x, t):
    p = x.sigmoid()
    cross = -(t * torch.log(p) + (1 - t) * torch.log(1 - p))
    right = p * t + (1 - p) * (1 - t)
    return ((0.25 * t + 0.75 * (1 - t)) * (1 - right) ** 2 * cross).mean()


def dice(x, t):
    p = x.sigmoid()
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def reference(logits, masks, maps, labels, inside, num_classes):
    """Unweighted losses of one layer: class, focal, dice, complementary."""
    size, stride = maps.shape[1:], maps.shape[1] // masks.shape[2]
    count = sum(len(set(image.unique().tolist()) & set(range(num_classes))) for image in maps)
    weights, classes = torch.ones(num_classes + 1).double(), []
    weights[-1] = 0.1
    found, novel_losses = {"focal": 0.0, "dice": 0.0}, []
    for logit, mask, image, novel, part in zip(logits, masks, maps, labels, inside, strict=True):
        base = sorted(set(image.unique().tolist()) & set(range(num_classes)))
        targets = base + sorted(set(novel) - set(base))
        cost = np.zeros((len(logit), len(targets)))
        for query, (place, label) in itertools.product(range(len(logit)), enumerate(targets)):
            cost[query, place] = -float(logit[query].softmax(0)[label])
            small_mask = (image[::stride, ::stride] == label).double()
            if label in base and small_mask.any():
                cost[query, place] += float(20 * focal(mask[query], small_mask) + dice(mask[query], small_mask))
        wanted, proposals = torch.full((len(logit),), num_classes), []
        for query, place in zip(*linear_sum_assignment(cost), strict=True):
            wanted[query] = targets[place]
            full = F.interpolate(mask[None, None, query], size, mode="bilinear", align_corners=False)[0, 0]
            if targets[place] in base:
                truth = (image == targets[place]).double()
                found["focal"] += focal(full, truth) / max(count, 1)
                found["dice"] += dice(full, truth) / max(count, 1)
            else:
                proposals.append(full)
        classes.append((logit, wanted))
        rest = part & torch.tensor([[int(pixel) not in base for pixel in row] for row in image])
        if proposals and rest.any():
            floor = torch.full_like(proposals[0], round(math.log(0.05 / 0.95), 4))
            union = torch.stack([*proposals, floor]).amax(0)
            novel_losses.append(20 * focal(union, rest.double()) + dice(union, rest.double()))
    stacked = torch.cat([logit for logit, _ in classes]), torch.cat([wanted for _, wanted in classes])
    found["class"] = F.cross_entropy(*stacked, weights)
    found["complementary"] = sum(novel_losses) / (len(novel_losses) + 1e-5) if novel_losses else 0.0
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("num_classes, queries, images, size, seed", SIZES)
def test_losses_of_a_layer(num_classes, queries, images, size, seed, monkeypatch):
    monkeypatch.setattr(small, "K", num_classes)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(-2, num_classes, (images, 4, 4), generator=generator)
    coarse = torch.where(torch.isin(coarse, torch.tensor([1, -1, -2])), 255, coarse)
    maps = coarse.repeat_interleave(size[0] // 4, 1).repeat_interleave(size[1] // 4, 2)
    labels = [[1], [], [1], [1]][:images]
    shapes = [size, (size[0], size[1] - 8), (size[0] - 4, size[1]), size][:images]
    inside = torch.zeros(maps.shape, dtype=torch.bool)
    for image, (height, width) in enumerate(shapes):
        inside[image, :height, :width] = True
    maps[~inside] = 255
    logits = 2 * torch.randn(1, images, queries, num_classes + 1, generator=generator).double()
    masks = 3 * torch.randn(1, images, queries, size[0] // 4, size[1] // 4, generator=generator).double()
    head = small.model(pairs="none").panoptic_head.double()
    targets = targets_of(maps, [torch.tensor(each) for each in labels], num_classes)
    losses = head.loss(Predictions(logits, masks, None), targets, inside)
    expected = reference(logits[0], masks[0], maps, labels, inside, num_classes)
    ours = {
        "class": losses["loss_cls"],
        "focal": losses["loss_mask"] / 20,
        "dice": losses["loss_dice"],
        "complementary": losses["loss_complementary"] / 0.15,
    }
    for name, value in expected.items():
        assert float(ours[name]) == pytest.approx(value, rel=1e-5, abs=1e-9), name


def points_of(pairs, cells, seed):
    torch.manual_seed(seed)
    fixed = {name: torch.rand(cells.base.shape) for name in ("same", "other", "novel")}
    pairs.numbers = lambda purpose, shape, device: fixed[purpose] if purpose in fixed else torch.rand(shape)
    return fixed


@pytest.mark.parametrize("form", ["ce", "cce", "b0.3"])
@pytest.mark.parametrize("student", ["cross_image", "same_image"])
def test_distillation_compares_points_of_both_images(form, student):
    pairs = small.model(distillation=form, student=student).panoptic_head.pixel_pairs
    maps, labels = small.pair_of_maps()
    targets = targets_of(maps, [torch.tensor(each) for each in labels], small.K)
    cells = Cells.of(targets, torch.ones_like(maps, dtype=torch.bool), (16, 16))
    fixed = points_of(pairs, cells, 3)
    embedding = torch.randn(2, 16, 16, 16)
    logits, masks = torch.randn(2, 9, small.K + 1), torch.randn(2, 9, 16, 16)
    got = pairs.distillation_loss(embedding, logits, masks, cells, np.array([True]), small.NOVEL)
    points = []
    for image in range(2):
        score = (~cells.base[image]).float() + 0.1 * fixed["novel"][image]
        points.append(score.flatten().topk(pairs.points).indices)
    scores = [
        torch.stack(
            [
                sum(
                    logits[image, q].softmax(0)[list(small.NOVEL)] * masks[image, q].flatten()[cell].sigmoid()
                    for q in range(9)
                )
                for cell in points[image]
            ]
        )
        for image in range(2)
    ]
    flat, losses = embedding.flatten(2), []
    for image in range(2):
        other = 1 - image
        rows = torch.stack(
            [torch.cat([flat[image, :, i], flat[other, :, j]]) for i in points[image] for j in points[other]]
        )
        losses.append(rows)
    teacher = pairs.net(torch.cat(losses), track=False).sigmoid().view(2, pairs.points, pairs.points)
    found = 0.0
    for image, i, j in itertools.product(range(2), range(pairs.points), range(pairs.points)):
        second = scores[1 - image if student == "cross_image" else image][j]
        similarity = F.cosine_similarity(scores[image][i], second, dim=0).relu()
        found += float(distilled(teacher[image, i, j], similarity, form))
    assert float(got) == pytest.approx(found / (2 * pairs.points**2), rel=1e-4)


def test_similarity_loss_weighs_and_counts_pairs():
    pairs = small.model().panoptic_head.pixel_pairs
    maps, labels = small.pair_of_maps()
    targets = targets_of(maps, [torch.tensor(each) for each in labels], small.K)
    cells = Cells.of(targets, torch.ones_like(maps, dtype=torch.bool), (16, 16))
    points_of(pairs, cells, 5)
    embedding = torch.randn(2, 16, 16, 16)
    common = torch.zeros(1, small.K, dtype=torch.bool)
    common[0, 2] = True
    got = pairs.similarity_loss(embedding, cells, common)
    fixed = [pairs.numbers(name, None, None) for name in ("same", "other")]
    points = []
    for image in range(2):
        region = cells.base[image] & (cells.labels[image] == 2)
        rest = ~region
        chosen = [
            (part.float() + 0.1 * noise[image]).flatten().topk(count).indices
            for part, noise, count in zip((region, rest), fixed, (16, 4), strict=True)
        ]
        points.append(torch.cat(chosen))
    flat, label, base = embedding.flatten(2), cells.labels.flatten(1), cells.base.flatten(1)
    order = [(image, i, j) for image in range(2) for i in range(20) for j in range(20)]
    rows = [torch.cat([flat[b, :, points[b][i]], flat[1 - b, :, points[1 - b][j]]]) for b, i, j in order]
    probability = pairs.net(torch.stack(rows), track=False).sigmoid()
    same = [bool(label[b, points[b][i]] == label[1 - b, points[1 - b][j]]) for b, i, j in order]
    counts = [bool(base[b, points[b][i]] | base[1 - b, points[1 - b][j]]) for b, i, j in order]
    seen = [s for s, c, (_, i, j) in zip(same, counts, order, strict=True) if c and i % 5 == 0 and j % 5 == 0]
    positives, negatives = 1 + sum(seen), 1 + len(seen) - sum(seen)
    weights = negatives / (positives + negatives), positives / (positives + negatives)
    losses = [
        (weights[0] if s else weights[1]) * -math.log(float(p if s else 1 - p))
        for s, c, p in zip(same, counts, probability, strict=True)
        if c
    ]
    assert float(got) == pytest.approx(sum(losses) / sum(counts), rel=1e-4)
