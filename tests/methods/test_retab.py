"""RETAB, our adaptation: what its heads learn from, and how far its labels spread."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmdet.models import build_detector

from pipeline import methods
from pipeline.methods.retab import detector
from tests.simformer.small import BACKBONE, gradients, total

K, NONE = 7, 255
META = {"img_shape": (64, 64, 3), "ori_shape": (64, 64, 3), "flip": False}


@pytest.fixture
def model():
    room = methods.method("retab")
    knobs = room.load_knobs(room.pinned(), "retab")
    methods.register("retab", knobs)
    torch.manual_seed(0)
    sizes = room.sizes(low=4, middle=6, high=8, backbone_groups=4)
    return build_detector(ConfigDict(room.model(knobs, sizes, BACKBONE, K))).train()


def batch():
    """Two images: base classes 0, 2 and 3 with masks, 1 and 4 as labels of the first, none of the second."""
    maps = torch.full((2, 64, 64), NONE)
    maps[:, :32, :40], maps[:, 32:, :40] = 0, 2
    maps[1, :, 40:] = 3
    generator = torch.Generator().manual_seed(0)
    return {
        "img": torch.randn(2, 3, 64, 64, generator=generator),
        "img_metas": [META, META],
        "gt_semantic_seg": maps,
        "novel_labels": [torch.tensor([1, 4]), torch.tensor([], dtype=torch.long)],
    }


def test_all_of_it_learns_whatever_an_image_shows(model):
    losses = model.forward_train(**batch())
    total(losses).backward()
    found = gradients(model)
    assert set(losses) == {"loss_labels", "loss_affinity", "loss_boundary"}
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    empty = batch() | {"gt_semantic_seg": torch.full((2, 64, 64), NONE)}
    assert torch.isfinite(total(model.forward_train(**empty)))


def test_image_labels_are_base_classes_of_the_map_and_novel_ones_that_are_told(model):
    given = batch()
    logits = model.classify(model.extract_feat(given["img"])[-1]).mean((2, 3))
    due = torch.tensor([[1.0, 1, 1, 0, 1, 0, 0], [1, 0, 1, 1, 0, 0, 0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, due)
    assert torch.allclose(model.forward_train(**given)["loss_labels"], expected)


def test_padding_teaches_nothing(model):
    model.eval()  # no statistics of the batch
    given = batch() | {"img_metas": [META | {"img_shape": (48, 64, 3)}] * 2}
    other = given | {"gt_semantic_seg": given["gt_semantic_seg"].clone()}
    other["gt_semantic_seg"][:, 48:] = 5
    for name, loss in model.forward_train(**given).items():
        assert torch.equal(loss, model.forward_train(**other)[name]), name


def test_labels_spread_where_cells_are_alike_and_end_at_boundaries_and_base_pixels():
    """Of columns of cells 0 to 5 are alike, 6 and 7 are base and look otherwise; a class is seen in the first two.

    Two columns that are a boundary let nothing across. (Cells in corners have no pairs, in the released code either.)
    """
    base = torch.full((64, 64), NONE, dtype=torch.uint8)
    base[:, 48:] = 2
    cams = torch.zeros(1, 8, 8)
    cams[0, 2:6, :2] = 1.0
    cams[0, :, 6:] = 1.0  # on base pixels, which send nothing
    embedding = torch.zeros(1, 8, 8)
    embedding[0, :, 6:] = 9.0
    within = torch.ones(8, 8, dtype=torch.bool)
    spread = detector.carried(cams, embedding, within, base)[1]
    assert spread[24:40, 36:44].min() > 0.045 and spread[24:40, 56:].max() < 0.01
    within[:, 2:4] = False
    stopped = detector.carried(cams, embedding, within, base)[1]
    assert stopped[24:40, 4:8].min() > 0.1 and stopped[24:40, 36:44].max() < 0.02


def test_base_pixels_and_images_without_label_keep_their_map(model):
    given = batch()
    model.eval()
    views = [(given["img"], given["img_metas"]), (given["img"].flip(-1), [META | {"flip": True}] * 2)]
    maps = list(given["gt_semantic_seg"].to(torch.uint8))
    with torch.no_grad():
        found = model.labelled(views, maps, given["novel_labels"])
        seen = model.simple_test(given["img"], given["img_metas"])
        mean = model.aug_test(*(list(each) for each in zip(*views, strict=True)))
    assert (found[1] == maps[1].numpy()).all()
    kept = maps[0].numpy() != NONE
    assert (found[0][kept] == maps[0].numpy()[kept]).all() and set(np.unique(found[0][~kept])) <= {1, 4, NONE}
    assert all(each.shape == (64, 64) and each.max() < K for each in (*seen, *mean))


def test_a_mirrored_view_is_mirrored_back(model):
    """Of one that sees in each view the same in the same place, two views say what one says."""
    model.eval()
    image = torch.randn(1, 3, 64, 64)
    cams = torch.rand(1, K, 8, 8)
    model.extract_feat = lambda images: [cams if torch.equal(images, image) else cams.flip(-1)] * 3
    model.classify = torch.nn.Identity()
    one = model.simple_test(image, [META])
    two = model.aug_test([image, image.flip(-1)], [[META], [META | {"flip": True}]])
    assert (one[0] == two[0]).all()
