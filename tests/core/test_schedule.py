"""Learning rates and updates against those of mmcv's runner, bit for bit; clipping against torch."""

from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from mmcv.runner import LogBuffer
from mmcv.runner.hooks import lr_updater, optimizer

from pipeline.declaration import config, schema
from pipeline.methods.contrastmask.losses import warmup_weight
from pipeline.training.schedule import POLICIES, Schedule
from pipeline.training.update import Update

HOOKS = {
    "step": lambda **warm: lr_updater.StepLrUpdaterHook(step=[40, 55], by_epoch=False, **warm),
    "cosine": lambda **warm: lr_updater.CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False, **warm),
    "poly": lambda **warm: lr_updater.PolyLrUpdaterHook(power=0.9, min_lr=0.0, by_epoch=False, **warm),
}


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("policy", HOOKS)
def test_learning_rates_are_those_of_mmcv(policy, warmup):
    schedule = Schedule(iterations=60, milestones=(40, 55), warmup=warmup, policy=policy, epoch=1)
    warm = {"warmup": "linear", "warmup_ratio": 0.001, "warmup_iters": warmup} if warmup else {}
    hook, parameters = HOOKS[policy](**warm), [torch.nn.Parameter(torch.zeros(1))]
    runner = SimpleNamespace(optimizer=torch.optim.SGD(parameters, lr=0.0183), max_iters=60, iter=0)
    hook.before_run(runner)
    for runner.iter in range(60):
        hook.before_train_iter(runner)
        assert schedule.rate(0.0183, runner.iter) == runner.optimizer.param_groups[0]["lr"], runner.iter


def test_the_schema_knows_every_policy():
    ours = {name for name in POLICIES if " from " not in name}  # others are of methods' authors, no profile's
    assert set(get_args(schema.TrainingSection.model_fields["lr_policy"].annotation)) == ours == set(HOOKS)


def trained(update, model, batches):
    norms = []
    for step in batches:
        for batch in step:
            update.add(model(batch).square().sum())
        norms.append(update.apply())
    return norms


@pytest.mark.parametrize("largest", [None, 0.5])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_updates_are_those_of_mmcv(accumulate, largest):
    torch.manual_seed(0)
    batches = torch.randn(4, accumulate, 5, 3)
    ours, theirs = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    declared = {"type": "AdamW", "lr": 0.05}
    update = Update(ours, {"optimizer": declared, "precision": "fp32", "grad_clip": largest}, accumulate)
    norms = trained(update, ours, batches)

    clip = None if largest is None else {"max_norm": largest}
    hook = optimizer.GradientCumulativeOptimizerHook(cumulative_iters=accumulate, grad_clip=clip)
    runner = SimpleNamespace(
        model=theirs,
        optimizer=torch.optim.AdamW(theirs.parameters(), lr=0.05),
        max_iters=4 * accumulate,
        _max_iters=4 * accumulate,
        log_buffer=LogBuffer(),
    )
    for runner.iter, batch in enumerate(batches.flatten(0, 1)):
        runner.outputs = {"loss": theirs(batch).square().sum(), "num_samples": 1}
        hook.after_train_iter(runner)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert norms == runner.log_buffer.val_history.get("grad_norm", [None] * 4)


def test_rates_are_relative_to_what_each_group_declares_and_continue_from_a_state():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    declared = {"type": "SGD", "lr": 0.1, "paramwise_cfg": {"custom_keys": {"backbone": {"lr_mult": 0.5}}}}
    optimisation = {"optimizer": declared, "precision": "fp32"}
    first = Update(model, optimisation, 1)
    assert first.set_rates(lambda rate: rate / 10) == 0.1 * 0.5 / 10
    second = Update(model, optimisation, 1)
    second.restore(first.state())
    second.set_rates(lambda rate: rate)
    assert {group["lr"] for group in second.optimizer.param_groups} == {0.05, 0.1}


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("run", ["contrastmask_r50_1x_nonvoc2voc", "contrastmask_r50_3x_nonvoc2voc"])
def test_a_scale_down_warms_the_contrastive_loss_up_in_the_paper_s_share_of_the_training(run, accumulate):
    """4 epochs of 12, of a pass each in 1x and of three in 3x: a third, however many images there are."""
    training = config.resolve(run, "generated", 0)
    given, roi_head = Schedule.of(training, 99, accumulate), training.model["roi_head"]
    epoch = given.epoch * roi_head["lambda_epoch_passes"]
    weights = [warmup_weight(i / epoch, "linear", roi_head["lambda_warmup_epochs"]) for i in range(given.iterations)]
    first = next(iteration for iteration, weight in enumerate(weights) if weight >= 1 - 1e-9)
    assert first == pytest.approx(given.iterations / 3, abs=1) and weights[0] == 0.25


def test_without_it_an_epoch_is_a_pass_over_the_training_set():
    training = SimpleNamespace(
        schedule={"iterations": 30, "milestones": []}, optimisation={"warmup_iterations": 0, "lr_policy": "step"}
    )
    assert Schedule.of(training, 99, 1).epoch == 99
    training.schedule["stands_for"] = 12
    assert (Schedule.of(training, 99, 1).epoch, Schedule.of(training, 99, 2).epoch) == (2.5, 5)
