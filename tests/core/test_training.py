"""Training: an interrupted one ends like an uninterrupted one, broken state is survived, a bad loss stops it."""

import errno
import functools
import json
import os
import signal
from dataclasses import replace

import mmcv
import pytest
import torch
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.artifacts.training_log import read_log
from pipeline.cli import command
from pipeline.declaration import recipe
from pipeline.errors import ExperimentError, Interrupted
from pipeline.training import loop, states, torchrun
from pipeline.training.computation import Computation
from pipeline.training.journal import Journal
from pipeline.training.sampler import divide
from tests.tiny import DATASET, job

from .conftest import empty

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def kill_after(monkeypatch):
    """Die after the given number of steps have been logged."""

    def arm(steps):
        original = Journal.add

        def add(self, step):
            original(self, step)
            if step.number >= steps:
                raise Killed

        monkeypatch.setattr(Journal, "add", add)
        return lambda: monkeypatch.setattr(Journal, "add", original)

    return arm


@pytest.fixture(scope="module")
def whole(tiny_root):
    """Weights and log of the training, never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", tiny_root)
        patch.setenv("CONTRASTMASK_HOME", str(tiny_root))
        scratch = loop.train(job())
    content = torch.load(scratch / "checkpoint.pth", weights_only=True), (scratch / "log.jsonl").read_text()
    empty(scratch)
    return content


@pytest.fixture
def uninterrupted(whole, workspace):
    return whole


def assert_same(scratch, uninterrupted):
    weights, log = uninterrupted
    resumed = torch.load(scratch / "checkpoint.pth", weights_only=True)
    assert resumed["state_dict"].keys() == weights["state_dict"].keys()
    for name, tensor in weights["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], tensor), name
    assert (scratch / "log.jsonl").read_text() == log
    assert not list(scratch.glob("state_*"))


@pytest.mark.parametrize(
    "damage", [None, "newest state cut short", "a byte of the newest state changed", "last log line cut short"]
)
def test_killed_and_resumed_ends_with_the_same_weights(uninterrupted, kill_after, damage):
    scratch = paths.scratch(recipe.fingerprint(job()))
    empty(scratch)
    disarm = kill_after(5)
    with pytest.raises(Killed):
        loop.train(job())
    disarm()
    assert [path.name[:14] for path in states.of(scratch)] == ["state_00000002", "state_00000004"]
    newest = states.of(scratch)[-1]
    content = bytearray(newest.read_bytes())
    if damage == "newest state cut short":
        newest.write_bytes(content[:1000])
    elif damage == "a byte of the newest state changed":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage:
        with (scratch / "log.jsonl").open("a") as file:
            file.write('{"iter": 6, "lo')
    assert_same(loop.train(job()), uninterrupted)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_the_state_and_the_next_attempt_goes_on_from_there(uninterrupted, monkeypatch, name):
    scratch = paths.scratch(recipe.fingerprint(job()))
    empty(scratch)
    original = Journal.add

    def add(self, step):
        original(self, step)
        if step.number == 3:
            os.kill(os.getpid(), signal.Signals[name])

    monkeypatch.setattr(Journal, "add", add)
    with pytest.raises(Interrupted, match=f"stopped by {name} at step 3; the state is saved") as stopped:
        loop.train(job())
    assert stopped.value.exit_code == 128 + signal.Signals[name]
    assert [path.name[:14] for path in states.of(scratch)] == ["state_00000002", "state_00000003"]
    monkeypatch.setattr(Journal, "add", original)
    assert_same(loop.train(job()), uninterrupted)


def test_a_full_disk_is_one_line_and_the_state_before_it_goes_on(uninterrupted, monkeypatch):
    scratch = paths.scratch(recipe.fingerprint(job()))
    empty(scratch)
    room = iter([None, None])  # the state of step 2 and its folder fit
    original = os.fsync

    def fsync(descriptor):
        if next(room, "full") == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ExperimentError, match=r"state_00000004\S+: No space left on device; free some space"):
        loop.train(job())
    assert [path.name[:14] for path in scratch.glob("state_*")] == ["state_00000002"]
    monkeypatch.setattr(os, "fsync", original)
    assert_same(loop.train(job()), uninterrupted)


def test_steps_in_several_iterations_resume_at_a_step(workspace, kill_after):
    """Four images a step, two at a time; records and states count steps."""
    accumulating = job(data={"batch_size": 4})
    scratch = loop.train(accumulating)
    whole = torch.load(scratch / "checkpoint.pth", weights_only=True), (scratch / "log.jsonl").read_text()
    assert [record["iter"] for record in read_log(scratch / "log.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert json.loads((scratch / "progress.json").read_text())["of"] == 6
    empty(scratch)
    disarm = kill_after(4)  # when step 4 is logged, before its state is saved
    with pytest.raises(Killed):
        loop.train(accumulating)
    disarm()
    assert_same(loop.train(accumulating), whole)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_near_full_precision(workspace, precision):
    """On a CPU fp16 runs without loss scaling, which is CUDA's; what is cast is the same."""
    lower, full = (
        read_log(loop.train(job(iterations=2, precision=name)) / "log.jsonl") for name in (precision, "fp32")
    )
    assert lower[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.05)
    assert lower[0]["loss"] != full[0]["loss"]


def test_a_detector_of_one_stage_trains_as_any_other(workspace):
    full = job(iterations=3, lr_policy="poly", warmup_iterations=0, grad_clip=5)
    *steps, collect = full.data["train"]
    training = replace(
        full,
        data=full.data | {"train": [*steps, collect | {"keys": ["img", "gt_bboxes", "gt_labels"]}]},
        model={
            "type": "RetinaNet",
            "backbone": full.model["backbone"],
            "neck": full.model["neck"] | {"num_outs": 3},
            "bbox_head": {"type": "RetinaHead", "num_classes": 80, "feat_channels": 8}
            | {"in_channels": full.model["neck"]["out_channels"]}
            | {"anchor_generator": full.model["rpn_head"]["anchor_generator"], "stacked_convs": 1},
            "train_cfg": {"assigner": full.model["train_cfg"]["rpn"]["assigner"], "allowed_border": -1}
            | {"pos_weight": -1, "debug": False},
        },
    )
    dataset = functools.partial(methods.task_of(training.method).training_set, training)
    computation = Computation(training, dataset, (("backbone", "forward"),), None, "cpu")
    found = list(computation.run(0, 1))
    assert [step.number for step in found] == [1, 2, 3]
    assert [step.rate for step in found] == pytest.approx([found[0].rate * (1 - i / 3) ** 0.9 for i in range(3)])
    assert {name for name, *_ in found[0].values} == {"loss_cls", "loss_bbox", "loss", "grad_norm"}


def test_every_part_that_is_cast_exists():
    room = methods.method(job().method)
    methods.register(job().method, job().knobs)
    model = build_detector(mmcv.ConfigDict(job().model))
    for path, method in room.autocast:
        assert hasattr(functools.reduce(getattr, path.split("."), model), method), path


@pytest.mark.parametrize(
    "nodes, processes, batch, at_once, expected",
    [(1, 1, 16, 2, (2, 8)), (1, 8, 16, 2, (2, 1)), (2, 8, 16, 2, (1, 1)), (1, 4, 16, 2, (2, 2)), (1, 1, 8, 8, (8, 1))],
)
def test_a_step_is_shared_among_processes(nodes, processes, batch, at_once, expected):
    assert divide(batch, at_once, nodes * processes) == expected


def test_a_step_that_cannot_be_shared_is_refused(monkeypatch):
    with pytest.raises(ExperimentError, match="batch_size 16 is not a multiple of 2 images in each of 3 processes"):
        divide(16, 2, 3)
    monkeypatch.setenv("CONTRASTMASK_PROCESSES", "two")
    with pytest.raises(ExperimentError, match="CONTRASTMASK_PROCESSES is 'two'; valid: an integer, at least 1"):
        torchrun.processes()


def test_a_finished_training_is_reused_and_the_interval_of_states_does_not_matter(uninterrupted):
    scratch = loop.train(job(interval=3))
    before = (scratch / "checkpoint.pth").stat().st_mtime_ns
    assert loop.train(job(interval=2)) == scratch
    assert (scratch / "checkpoint.pth").stat().st_mtime_ns == before


def test_the_fingerprint_follows_what_changes_numbers(workspace):
    first = recipe.fingerprint(job())
    assert recipe.fingerprint(replace(job(), name="other")) == first
    assert recipe.fingerprint(job(seed=1)) != first
    knobs = job().knobs.model_copy(update={"sigma": 0.2})
    assert recipe.fingerprint(replace(job(), knobs=knobs)) == first  # acts through the model
    split_file = paths.split_train(DATASET, "nonvoc2voc")
    content = split_file.read_bytes()
    split_file.write_bytes(content + b"\n")
    assert recipe.fingerprint(job()) != first
    split_file.write_bytes(content)


def test_a_non_finite_loss_stops_with_run_name_and_iteration(workspace):
    exploding = job(seed=7, optimizer={"type": "SGD", "lr": 1e30})
    message = r"run contrastmask_r50_1x_nonvoc2voc: \w+ is (nan|inf) at iteration \d"
    with pytest.raises(ExperimentError, match=message):
        loop.train(exploding)


def test_the_log_has_the_loss_terms_and_no_times(uninterrupted):
    records = [json.loads(line) for line in uninterrupted[1].splitlines()]
    assert [record["iter"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss_mask", "loss_cls", "loss_bbox", "loss_rpn_cls", "loss_contrastive", "lr"} <= set(records[0])
    assert not {"time", "data_time", "memory"} & set(records[0])


def test_a_truncated_image_stops_the_stage_with_one_line(workspace, capsys):
    """The error is raised in a data worker; the user still reads one line."""
    image = sorted(paths.images(DATASET, "train2017").iterdir())[0]
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(SystemExit) as exit_:
            command(lambda: loop.train(job(seed=9)))()
    finally:
        image.write_bytes(content)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 1
    assert error.startswith("error: ") and image.name in error and "truncated" in error
