"""The training loop tells the RoI head where it stands, and its statistics reach the log."""

import pytest
import torch

from pipeline import methods
from pipeline.training.progress import Progress

from .conftest import batch, build, train_losses


def progress(model, iterations_per_epoch):
    return Progress(model, seed=0, iterations_per_epoch=iterations_per_epoch, rank=0)


def test_progress_reaches_the_roi_head():
    model = build()
    Progress(model, seed=3, iterations_per_epoch=4, rank=1).tell(6)
    assert model.roi_head._progress == (6, 1.5, 3, 1)


class Part(torch.nn.Module):
    """Counts, as any part of a model may."""

    def __init__(self, **statistics):
        super().__init__()
        self.statistics, self.progress = statistics, None

    def set_progress(self, *progress):
        self.progress = progress


def test_parts_are_told_and_asked_wherever_they_are_in_a_model():
    first, second = Part(matched=torch.tensor(3)), Part(queries=4.5)
    found = progress(torch.nn.ModuleDict({"head": first, "deeper": torch.nn.Sequential(second)}), 2)
    found.tell(3)
    assert first.progress == second.progress == (3, 1.5, 0, 0)
    assert found.statistics() == {"matched": 3.0, "queries": 4.5}


def test_a_model_without_such_parts_is_left_alone():
    found = progress(torch.nn.Linear(2, 2), 2)
    found.tell(3)
    assert found.statistics() == {}


@pytest.mark.parametrize(("schedule", "full_from"), [("1x", 4), ("3x", 12)])
def test_the_weight_is_full_from_the_pass_of_the_released_schedule(schedule, full_from):
    """Spec section 8: by epochs 0.25, 0.25, 0.5, 0.75, 1; an epoch of 3x is three passes."""
    knobs = methods.method("contrastmask").preset("released", schedule)
    model = build(recipe="released", lambda_epoch_passes=knobs.lambda_epoch_passes)
    model.train()
    training, data, weights = progress(model, 2), batch(images=1, size=64), []
    for passes in range(0, full_from + 2):
        training.tell(2 * passes + 1)
        model(return_loss=True, **data)
        weights.append(float(model.roi_head.statistics["cl_lambda"]))
    per_epoch = [0.25, 0.25, 0.5, 0.75]
    assert weights == [weight for weight in per_epoch for _ in range(full_from // 4)] + [1.0, 1.0]


def test_statistics_are_logged_beside_the_losses_and_not_among_them():
    model = build(lambda_warmup_epochs=4)
    training = progress(model, 4)
    training.tell(8)
    model.train()
    losses = model(return_loss=True, **batch())
    logged = training.statistics()
    assert logged["cl_lambda"] == 0.25 + 0.75 * 2 / 4
    assert logged["positive_rois"] >= logged["mask_loss_rois"]
    groups = ("kept_base_rois", "dropped_base_rois", "kept_novel_rois", "dropped_novel_rois")
    assert sum(logged[name] for name in groups) == logged["positive_rois"]
    assert not set(logged) & set(losses)


def test_the_contrastive_loss_cannot_be_off_by_accident():
    model = build()
    model.train()
    with pytest.raises(RuntimeError, match="set_progress was never called"):
        model(return_loss=True, **batch())


def test_a_step_depends_on_its_iteration_and_not_on_what_ran_before():
    model, data = build(sigma=0.3, min_keys=1), batch()

    def contrastive(iteration):
        return train_losses(model, data, iteration, epoch=9)["loss_contrastive"].item()

    first = contrastive(7)
    contrastive(8)
    assert contrastive(7) == first
    assert contrastive(8) != first
