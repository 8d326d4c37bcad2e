"""The log of a training: means of what every step has to tell, whatever the intervals of records and of states."""

import json
import math
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from mmdet.models.detectors import BaseDetector

from pipeline.artifacts.training_log import read_log, read_progress
from pipeline.errors import ExperimentError
from pipeline.training.computation import Step
from pipeline.training.journal import Journal
from pipeline.training.losses import total

TRAINING = SimpleNamespace(name="mine", optimisation={"log_interval": 4})
STEPS = 10


def step(number, loss=None):
    """Two iterations; one part counts in every second step alone."""
    values = [("loss", number / 7 if loss is None else loss, 2), ("rois", float(number), 1)] * 2
    return Step(number, 0.1 / number, values + [("matched", 1.0, 1)] * (number % 2), 0.0)


def test_a_record_is_the_mean_since_the_one_before(tmp_path):
    tracker = Mock()
    journal = Journal(TRAINING, tmp_path, STEPS, tracker=tracker)
    for number in range(1, STEPS + 1):
        journal.add(step(number))
    first, second = read_log(tmp_path / "log.jsonl")
    assert (first["iter"], second["iter"]) == (4, 8)
    assert first["loss"] == pytest.approx((1 + 2 + 3 + 4) / 4 / 7) and second["rois"] == 6.5
    assert first["matched"] == 1.0 and second["lr"] == 0.1 / 8
    assert [call.args[0] for call in tracker.log_history.call_args_list] == [[first], [second]]
    assert (read_progress(tmp_path)["iteration"], read_progress(tmp_path)["of"]) == (10, 10)


@pytest.mark.parametrize("saved, killed", [(3, 5), (6, 9), (8, 8)])
def test_what_was_not_logged_yet_is_in_the_record_after_the_interruption(tmp_path, saved, killed):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    journal = Journal(TRAINING, whole, STEPS)
    for number in range(1, STEPS + 1):
        journal.add(step(number))
    journal = Journal(TRAINING, broken, STEPS)
    for number in range(1, killed + 1):
        journal.add(step(number))
        if number == saved:
            pending = journal.pending()
    journal = Journal(TRAINING, broken, STEPS, saved, pending)
    for number in range(saved + 1, STEPS + 1):
        journal.add(step(number))
    assert (broken / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


def test_numbers_that_are_still_in_tensors_are_logged_like_others(tmp_path):
    def in_tensors(told):
        # of whatever type and of one element
        values = [
            (name, torch.tensor(value).view([1] * (name == "rois")), weight) for name, value, weight in told.values
        ]
        return Step(told.number, told.rate, values, told.waited)

    for name, turned in (("numbers", lambda told: told), ("tensors", in_tensors)):
        journal = Journal(TRAINING, tmp_path / name, STEPS)
        for number in range(1, 7):
            told = step(number, loss=number / 8)
            journal.add(turned(told) if number % 3 else told)
        assert json.loads(journal.pending())["loss"] == [[5 / 8, 2], [5 / 8, 2], [6 / 8, 2], [6 / 8, 2]]
    assert (tmp_path / "tensors/log.jsonl").read_bytes() == (tmp_path / "numbers/log.jsonl").read_bytes()


def test_the_sum_of_losses_and_what_is_logged_are_mmdetections():
    losses = {
        "loss_a": torch.rand(3, requires_grad=True),
        "loss_b": [torch.rand(2), torch.rand(1)],
        "acc": torch.rand(1),
    }
    loss, logged = total(losses)
    wanted, numbers = BaseDetector._parse_losses(None, losses)
    assert loss.equal(wanted) and loss.requires_grad
    assert {name: value.item() for name, value in logged.items()} == numbers
    assert not any(value.requires_grad for value in logged.values())
    with pytest.raises(TypeError, match="loss_c is not"):
        total({"loss_c": 1.0})


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_mean_that_is_not_finite_is_refused_and_not_written(tmp_path, loss):
    journal = Journal(TRAINING, tmp_path, STEPS)
    for number in range(1, 4):
        journal.add(step(number))
    with pytest.raises(ExperimentError, match=f"run mine: loss is {loss} at iteration 4; lower the learning rate"):
        journal.add(step(4, loss))
    assert read_log(tmp_path / "log.jsonl") == []
