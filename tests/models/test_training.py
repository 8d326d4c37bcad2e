"""The three methods train and predict on a toy batch."""

import numpy as np
import pytest
import torch

from .conftest import METHODS, batch, build, total, train_losses


@pytest.mark.parametrize("method", METHODS)
def test_training_reduces_the_loss_and_testing_gives_boxes_and_masks(method):
    model = build(method, lambda_warmup_epochs=0)
    data = batch()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for iteration in range(20):
        losses = train_losses(model, data, iteration)
        loss = total(losses)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        contrastive = losses.get("loss_contrastive", torch.zeros(()))
        history.append([float((loss - contrastive).detach()), float(contrastive.detach())])
    assert np.isfinite(history).all()
    early, late = np.mean(history[:5], axis=0), np.mean(history[-5:], axis=0)
    assert late[0] < 0.8 * early[0]
    assert late[1] <= early[1]
    assert ("loss_contrastive" in losses) == (method == "contrastmask")

    model.eval()
    model.roi_head.test_cfg.score_thr = 0.01
    with torch.no_grad():
        results = model(return_loss=False, rescale=True, img=[data["img"]], img_metas=[data["img_metas"]])
    assert len(results) == 2
    detections = 0
    for boxes, masks in results:
        assert len(boxes) == len(masks) == 6
        for class_boxes, class_masks in zip(boxes, masks, strict=True):
            assert class_boxes.shape == (len(class_masks), 5)
            assert all(mask.shape == (128, 128) and mask.dtype == bool for mask in class_masks)
            detections += len(class_masks)
    assert detections > 0
