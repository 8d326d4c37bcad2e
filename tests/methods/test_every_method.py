"""What every method that segments objects must have, whichever it is; what is special to one its own tests look at."""

import pytest
import torch

from benchmarks.methods_step import measured
from pipeline import methods
from pipeline.training.precision import use_autocast
from tests.models.conftest import SMALL, SMALL_BACKBONE, batch, total, train_losses

CLASSES = 6
SIZES = SMALL | {"normalise": True}
LEARNS = [name for name in measured() if name != "grabcut"]  # which learns no mask


def build(name):
    """A small detector of a method with its pinned knobs."""
    from mmcv import ConfigDict
    from mmdet.models import build_detector

    room = methods.method(name)
    knobs = room.load_knobs(room.pinned(), name)
    methods.register(name, knobs)
    torch.manual_seed(0)
    return build_detector(ConfigDict(room.model(knobs, room.sizes(**SIZES), SMALL_BACKBONE, CLASSES)))


def gradients(model, data):
    """{parameter: gradient} and the losses of a step; every one is drawn anew from the same seed."""
    torch.manual_seed(0)
    losses = train_losses(model, data)
    model.zero_grad()
    total(losses).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, losses


def test_all_are_known_to_mmdetection_at_once():
    """Of one name in its registries there can be one type: `commands.plan` builds every method in one process."""
    for name in methods.names():
        room = methods.method(name)
        if room.task == "instances":
            methods.register(name, room.load_knobs(room.pinned(), name))


@pytest.mark.parametrize("name", LEARNS)
def test_masks_of_novel_objects_reach_no_gradient(name):
    model, data = build(name), batch(images=2, size=64, objects=3)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    expected, _ = gradients(model, data)
    noisy, noise = batch(images=2, size=64, objects=3), torch.Generator().manual_seed(1)
    for masks, flags in zip(noisy["gt_masks"], noisy["gt_is_novel"], strict=True):
        drawn = torch.rand(masks.masks.shape, generator=noise).numpy() < 0.5
        masks.masks[flags.numpy()] = drawn[flags.numpy()]
    assert any(flags.any() for flags in noisy["gt_is_novel"])
    model.load_state_dict(state)
    found, _ = gradients(model, noisy)
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("objects, novel", [(3, range(CLASSES)), (0, ())], ids=["no base object", "no object"])
@pytest.mark.parametrize("name", LEARNS)
def test_images_without_masks_train_what_others_train_and_give_numbers(name, objects, novel):
    """Every parameter has a gradient, zero or not: else processes would wait for each other."""
    model = build(name)
    usual, _ = gradients(model, batch(images=1, size=64, objects=3, novel=()))
    found, losses = gradients(model, batch(images=1, size=64, objects=objects, novel=novel))
    assert found.keys() >= {key for key in usual if "mask_head" in key}
    assert all(torch.isfinite(value).all() for value in found.values())
    assert float(sum(losses["loss_mask"]) if isinstance(losses["loss_mask"], list) else losses["loss_mask"]) == 0


@pytest.mark.parametrize("name", LEARNS)
def test_half_precision_is_finite(name):
    model = build(name)
    use_autocast(model, methods.method(name).autocast, "cpu", "bf16")
    found, _ = gradients(model, batch(images=1, size=64, objects=3, novel=()))
    assert found and all(torch.isfinite(value).all() for value in found.values())
