"""The measurement that compares a step and the inference of all methods runs for each kind of both."""

from types import SimpleNamespace

import pytest

from benchmarks import methods_step
from pipeline import methods

ARGS = SimpleNamespace(profile="embedded", images=1, height=64, width=64, objects=2, device="cpu", serve="mask_rcnn")


def test_all_that_segment_objects_are_measured_the_baseline_first():
    names = methods_step.measured()
    assert names[0] == "mask_rcnn" and {"cam", "contrastmask"} < set(names)
    assert all(methods.method(name).task == "instances" for name in names) and "two_stage" not in names


@pytest.mark.parametrize("make", [methods_step.stepper, methods_step.inferrer])
def test_a_call_takes_time_and_memory(make):
    milliseconds, megabytes = methods_step.measure(make(methods_step.build(ARGS), ARGS), "cpu")
    assert milliseconds > 0 and megabytes > 0


def test_ratios_are_to_the_baseline(capsys):
    times = {"mask_rcnn": (10.0, 4.0), "cam": (15.0, 8.0)}
    methods_step._print({name: dict.fromkeys(methods_step.KINDS, pair) for name, pair in times.items()})
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert "cam_step_time=1.50" in last and "cam_inference_memory=2.00" in last and "mask_rcnn_step_time=1.00" in last


def test_the_middle_of_the_repeats_is_taken():
    assert methods_step._median([(1.0, 9.0), (3.0, 8.0), (50.0, 7.0)]) == (3.0, 8.0)
