"""Two processes with a pair of images each are one with both."""

import numpy as np
import pytest
import torch

from pipeline.training.data_parallel import averaged
from pipeline.training.losses import total
from tests.joined import joined
from tests.simformer import small

STEPS = 2


def four_images():
    """Two pairs of maps with as many classes each, so that each process weighs its queries alike, and their labels."""
    maps, labels = small.pair_of_maps()
    return torch.cat([maps, maps.flip(2)]), labels * 2


def trained(images, world_size):
    """Losses of a few steps with some of the images, and the weights that they end with; random numbers are given."""
    model = small.model(distillation_weight=1.0)
    pairs = model.panoptic_head.pixel_pairs
    pairs.balance.counts.zero_()  # else the pair that it begins with counts half as much in one process
    generator = torch.Generator().manual_seed(3)
    drawn = {name: torch.rand(4, 16, 16, generator=generator) for name in ("same", "other", "novel")}
    drawn["class"] = torch.rand(2, small.K, generator=generator)
    pairs.numbers = lambda name, shape, device: drawn[name][images[::2] // 2 if name == "class" else images]
    wrapped = averaged(model) if world_size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    maps, labels = four_images()
    given = small.batch(maps, labels)
    given = {"img": given["img"][images], "gt_semantic_seg": maps[images]} | {
        name: [given[name][image] for image in images] for name in ("img_metas", "novel_labels")
    }
    history = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, log = total(wrapped(return_loss=True, **given))
        loss.backward()
        optimizer.step()
        history.append({name: float(value) for name, value in log.items()})
    return history, {name: value.detach() for name, value in model.named_parameters()}


def test_losses_and_weights_are_those_of_one():
    first, second = joined(lambda rank: trained(np.arange(2 * rank, 2 * rank + 2), 2), 2)
    assert first[0] == second[0] and all(torch.equal(first[1][name], second[1][name]) for name in first[1])
    history, weights = trained(np.arange(4), 1)
    for ours, expected in zip(first[0], history, strict=True):
        assert ours == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(first[1][name], value, rtol=1e-3, atol=1e-5, msg=name)
