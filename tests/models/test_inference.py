"""Testing: which CAM a detection gets, batches, no detections, augmented views, what is not computed."""

import numpy as np
import pytest
import torch
from mmdet.core import bbox2roi

from .conftest import METHODS, batch, build

PROPOSALS = torch.tensor(
    [
        [10.0, 10, 60, 60, 0.9],
        [30, 40, 100, 110, 0.8],
        [5, 70, 50, 120, 0.7],
        [60, 5, 120, 50, 0.6],
    ]
)


def ready_model(method="contrastmask", **knobs):
    model = build(method, **knobs).eval()
    model.roi_head.test_cfg.score_thr = 0.0
    model.roi_head.test_cfg.max_per_img = 12
    with torch.no_grad():
        # spread the scores and boxes, so that detections are neither equal nor equal to their proposals
        model.roi_head.bbox_head.fc_cls.weight.normal_(0, 0.5)
        model.roi_head.bbox_head.fc_reg.weight.normal_(0, 0.02)
    return model


def pyramid(model, data=None):
    with torch.no_grad():
        return model.extract_feat((data or batch())["img"])


def test_a_detection_gets_the_cam_of_its_proposal_and_class():
    model = ready_model()
    head, data = model.roi_head, batch(images=1)
    x = pyramid(model, data)
    with torch.no_grad():
        ((boxes, labels, cams),) = head.detect(x, [PROPOSALS], data["img_metas"], rescale=False)
        box = head._bbox_forward(x, bbox2roi([PROPOSALS]))
        decoded, scores = head.bbox_head.get_bboxes(
            bbox2roi([PROPOSALS]), box["cls_score"], box["bbox_pred"], (128, 128, 3), np.ones(4, np.float32)
        )
    everything = torch.einsum("kc,rchw->rkhw", head.bbox_head.fc_cls.weight, box["cam_features"])
    assert len(boxes) == 12
    for detection, label, cam in zip(boxes, labels, cams, strict=True):
        row = scores[:, label].sub(detection[4]).abs().argmin()
        assert torch.allclose(decoded.view(4, 6, 4)[row, label], detection[:4])
        assert torch.allclose(cam[0], everything[row, label], atol=1e-5)


def test_the_cam_has_the_mean_of_the_logit_without_its_bias():
    model = ready_model()
    head = model.roi_head
    with torch.no_grad():
        box = head._bbox_forward(pyramid(model), bbox2roi([PROPOSALS]))
        labels = torch.tensor([0, 3, 5, 6])
        cam = head.bbox_head.activation_maps(box["cam_features"], labels)
    logits = box["cls_score"][torch.arange(4), labels] - head.bbox_head.fc_cls.bias[labels]
    assert torch.allclose(cam.mean((1, 2, 3)), logits, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_its_images_give_alone(method):
    model, data = ready_model(method), batch(images=2, seed=3)
    with torch.no_grad():
        together = model.simple_test(data["img"], data["img_metas"], rescale=True)
        alone = [
            model.simple_test(data["img"][n : n + 1], data["img_metas"][n : n + 1], rescale=True)[0] for n in (0, 1)
        ]
    for (boxes, masks), (own_boxes, own_masks) in zip(together, alone, strict=True):
        for one, other in zip(boxes, own_boxes, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3)
        for one, other in zip(masks, own_masks, strict=True):
            assert len(one) == len(other)
            assert all((m != n).mean() < 0.01 for m, n in zip(one, other, strict=True))


@pytest.mark.parametrize("frame", ["proposal", "refined"])
def test_images_without_detections_or_proposals(frame):
    model, data = ready_model(cam_frame=frame), batch(images=2)
    head, x = model.roi_head, pyramid(model)
    nothing = PROPOSALS[:0]
    with torch.no_grad():
        empty = head.simple_test(x, [nothing, nothing], data["img_metas"], rescale=True)
        half = head.simple_test(x, [nothing, PROPOSALS], data["img_metas"], rescale=True)
        head.test_cfg.score_thr = 2.0
        unsure = head.simple_test(x, [PROPOSALS, PROPOSALS], data["img_metas"], rescale=True)
    for boxes, masks in [*empty, half[0], *unsure]:
        assert [b.shape for b in boxes] == [(0, 5)] * 6
        assert masks == [[]] * 6
    assert sum(len(b) for b in half[1][0]) == sum(len(m) for m in half[1][1]) == 12


@pytest.mark.parametrize("scale", [2.0, np.array([2, 2, 2, 2], np.float32)])
def test_rescaling_by_a_number_or_an_array(scale):
    model, data = ready_model(), batch(images=1)
    meta = {**data["img_metas"][0], "scale_factor": scale, "ori_shape": (64, 64, 3)}
    with torch.no_grad():
        ((boxes, masks),) = model.simple_test(data["img"], [meta], rescale=True)
    assert max(b[:, :4].max() for b in boxes if len(b)) <= 64
    assert all(mask.shape == (64, 64) for of_class in masks for mask in of_class)


def test_the_cam_frame_decides_the_box_the_cam_is_computed_on():
    results = {}
    for frame in ("proposal", "refined"):
        model = ready_model(cam_frame=frame)
        head, x = model.roi_head, pyramid(model, batch(images=1))
        rois, labels = bbox2roi([PROPOSALS + 7]), torch.tensor([0, 1, 2, 3])
        with torch.no_grad():
            proposal_cams = head._refined_cam(x, bbox2roi([PROPOSALS]), labels)
            results[frame] = head.detection_masks(x, rois, labels, proposal_cams)
            from_refined = head._mask_features(x, rois, head._refined_cam(x, rois, labels))["mask_pred"]
            from_proposal = head._mask_features(x, rois, proposal_cams)["mask_pred"]
    assert torch.allclose(results["refined"], from_refined, atol=1e-5)
    assert torch.allclose(results["proposal"], from_proposal, atol=1e-5)
    assert not torch.allclose(from_refined, from_proposal, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_augmented_views_are_merged(method):
    model, data = ready_model(method), batch(images=1)
    meta = data["img_metas"][0]
    flipped = {**meta, "flip": True, "flip_direction": "horizontal"}
    with torch.no_grad():
        ((boxes, masks),) = model.aug_test([data["img"], data["img"].flip(3)], [[meta], [flipped]], rescale=True)
        model.roi_head.test_cfg.score_thr = 2.0
        ((none, no_masks),) = model.aug_test([data["img"], data["img"].flip(3)], [[meta], [flipped]], rescale=True)
    assert sum(map(len, boxes)) == sum(map(len, masks)) > 0
    assert sum(map(len, none)) == sum(map(len, no_masks)) == 0


@pytest.mark.parametrize("method", METHODS)
def test_dummy_forward(method):
    model = ready_model(method)
    with torch.no_grad():
        _, (cls_score, bbox_pred, mask_pred) = model.forward_dummy(batch(images=1)["img"])
    assert cls_score.shape == (1000, 7)
    assert bbox_pred.shape == (1000, 24)
    assert mask_pred.shape == (100, 1, 28, 28)


def test_export_is_refused_in_one_sentence():
    with pytest.raises(NotImplementedError, match="cannot be exported to ONNX"):
        ready_model().roi_head.onnx_export(None, None, None)
