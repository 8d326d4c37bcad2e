"""The training loop tells the RoI head where it stands, and its statistics reach the log."""

from types import SimpleNamespace

import pytest
from mmcv.runner import LogBuffer

from pipeline import methods
from pipeline.training.progress import TrainingProgressHook

from .conftest import batch, build, train_losses


def runner(model, iteration):
    return SimpleNamespace(model=model, iter=iteration, log_buffer=LogBuffer())


def test_progress_reaches_a_plain_and_a_wrapped_model():
    from mmcv.parallel import MMDataParallel

    model = build()
    hook = TrainingProgressHook(seed=3, iters_per_epoch=4)
    for wrapped in (model, MMDataParallel(model, device_ids=[])):
        hook.before_train_iter(runner(wrapped, 6))
        assert model.roi_head._progress == (6, 1.5, 3, 0)


@pytest.mark.parametrize(("schedule", "full_from"), [("1x", 4), ("3x", 12)])
def test_the_weight_is_full_from_the_pass_of_the_released_schedule(schedule, full_from):
    """Spec section 8: by epochs 0.25, 0.25, 0.5, 0.75, 1; an epoch of 3x is three passes."""
    knobs = methods.method("contrastmask").preset("released", schedule)
    model = build(recipe="released", lambda_epoch_passes=knobs.lambda_epoch_passes)
    model.train()
    hook, data, weights = TrainingProgressHook(seed=0, iters_per_epoch=2), batch(images=1, size=64), []
    for passes in range(0, full_from + 2):
        state = runner(model, 2 * passes + 1)
        hook.before_train_iter(state)
        model(return_loss=True, **data)
        weights.append(float(model.roi_head.statistics["cl_lambda"]))
    per_epoch = [0.25, 0.25, 0.5, 0.75]
    assert weights == [weight for weight in per_epoch for _ in range(full_from // 4)] + [1.0, 1.0]


def test_statistics_are_logged_beside_the_losses_and_not_among_them():
    model = build(lambda_warmup_epochs=4)
    hook = TrainingProgressHook(seed=0, iters_per_epoch=4)
    state = runner(model, 8)
    hook.before_train_iter(state)
    model.train()
    losses = model(return_loss=True, **batch())
    hook.after_train_iter(state)
    logged = {name: values[0] for name, values in state.log_buffer.val_history.items()}
    assert logged["cl_lambda"] == 0.25 + 0.75 * 2 / 4
    assert logged["positive_rois"] >= logged["mask_loss_rois"]
    groups = ("kept_base_rois", "dropped_base_rois", "kept_novel_rois", "dropped_novel_rois")
    assert sum(logged[name] for name in groups) == logged["positive_rois"]
    assert not set(logged) & set(losses)


def test_the_contrastive_loss_cannot_be_off_by_accident():
    model = build()
    model.train()
    with pytest.raises(RuntimeError, match="add TrainingProgressHook"):
        model(return_loss=True, **batch())


def test_a_step_depends_on_its_iteration_and_not_on_what_ran_before():
    import torch

    model, data = build(sigma=0.3, min_keys=1), batch()

    def contrastive(iteration):
        torch.manual_seed(5)  # of the box samplers, which are MMDetection's
        return train_losses(model, data, iteration, epoch=9)["loss_contrastive"].item()

    first = contrastive(7)
    contrastive(8)
    assert contrastive(7) == first
    assert contrastive(8) != first
