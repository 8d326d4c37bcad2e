"""The measurement that compares a step and the inference of all methods runs for each kind of both."""

from types import SimpleNamespace

import pytest

from benchmarks import methods_parts, methods_step
from pipeline import methods

ARGS = SimpleNamespace(profile="embedded", images=1, height=64, width=64, objects=2, device="cpu", serve="mask_rcnn")


def test_all_that_segment_objects_are_measured_the_baseline_first():
    names = methods_step.measured()
    assert names[0] == "mask_rcnn" and {"cam", "contrastmask"} < set(names)
    assert all(methods.method(name).task == "instances" for name in names) and "two_stage" not in names


def test_a_method_with_forms_is_measured_in_each():
    names = methods_step.forms()
    assert {"maskx:mlp", "maskx:no_mlp", "cpmask:gradient", "cpmask:released", "cpmask_fcos"} < set(names)
    assert not {"maskx", "cpmask"} & set(names) and names[0] == "mask_rcnn"
    with_mlp = methods_step.build(SimpleNamespace(**{**vars(ARGS), "serve": "maskx:mlp"}))
    without = methods_step.build(SimpleNamespace(**{**vars(ARGS), "serve": "maskx:no_mlp"}))
    assert with_mlp.roi_head.mask_head.mlp is not None and without.roi_head.mask_head.mlp is None


def test_inference_of_what_reads_its_images_again():
    args = SimpleNamespace(**{**vars(ARGS), "serve": "grabcut"})
    methods_step.inferrer(methods_step.build(args), args)()


@pytest.mark.parametrize("part", methods_parts.PARTS)
def test_a_part_gives_the_numbers_of_the_other_structure(part, capsys):
    """Which `compare` checks."""
    found = methods_parts.main(["--parts", part, "--rois", "2", "--repeats", "1"])
    assert found.keys() == {part} and f"{part}_faster=" in capsys.readouterr().out


def test_a_part_that_gives_other_numbers_is_not_measured(monkeypatch):
    monkeypatch.setattr(methods_parts, "propagate", lambda latent, weights, steps: latent * weights[:, :24])
    with pytest.raises(AssertionError, match="not close"):
        methods_parts.main(["--parts", "shapeprop", "--rois", "1", "--repeats", "1"])


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
