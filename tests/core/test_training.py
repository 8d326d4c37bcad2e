"""Training: an interrupted one ends like an uninterrupted one, broken state is survived, a bad loss stops it."""

import json
from dataclasses import replace

import pytest
import torch

from pipeline import config, experiments, paths, training
from pipeline.cli import command
from pipeline.datasets.prepare import prepare
from pipeline.datasets.split import split
from pipeline.errors import ExperimentError

pytestmark = pytest.mark.slow

DATASET = "generated"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A root of its own with a few drawn images and random initial weights."""
    root = tmp_path_factory.mktemp("root")
    patch = pytest.MonkeyPatch()
    for name in ("pipeline", "params.yaml"):  # code and knobs are read through ROOT
        (root / name).symlink_to(paths.ROOT / name)
    patch.setattr(paths, "ROOT", root)
    patch.setenv("CONTRASTMASK_HOME", str(root))
    entry = experiments.load().dataset(DATASET) | {"train_images": 12, "val_images": 2}
    prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
    direction = experiments.load().directions["nonvoc2voc"]
    split(paths.annotations(DATASET, "train2017"), direction, paths.split(DATASET, "nonvoc2voc"))
    weights = paths.initial_weights(DATASET, "r50")
    weights.parent.mkdir(parents=True)
    training.save_atomically({"state_dict": {}}, weights)
    yield root
    patch.undo()


def job(seed=0, interval=2, **optimisation):
    full = config.resolve("contrastmask_r50_1x_nonvoc2voc", DATASET, seed)
    return replace(
        full,
        data=full.data | {"batch_size": 2, "images_per_gpu": 2},
        schedule={"iterations": 6, "milestones": []},
        optimisation=full.optimisation | {"log_interval": 1, "checkpoint_interval": interval} | optimisation,
    )


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def kill_after(monkeypatch):
    """Die after the given number of iterations have been logged."""

    def arm(iterations):
        original = training.RunLogHook._dump_log

        def dump(self, log_dict, runner):
            original(self, log_dict, runner)
            if log_dict["iter"] >= iterations:
                raise Killed

        monkeypatch.setattr(training.RunLogHook, "_dump_log", dump)
        return lambda: monkeypatch.setattr(training.RunLogHook, "_dump_log", original)

    return arm


@pytest.fixture(scope="module")
def uninterrupted(workspace):
    scratch = training.train(job())
    content = torch.load(scratch / "checkpoint.pth", weights_only=True), (scratch / "log.jsonl").read_text()
    for path in scratch.iterdir():
        path.unlink()
    return content


def assert_same(scratch, uninterrupted):
    weights, log = uninterrupted
    resumed = torch.load(scratch / "checkpoint.pth", weights_only=True)
    assert resumed["state_dict"].keys() == weights["state_dict"].keys()
    for name, tensor in weights["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], tensor), name
    assert (scratch / "log.jsonl").read_text() == log
    assert not list(scratch.glob("state_*"))


@pytest.mark.parametrize("damage", [None, "newest state cut short", "last log line cut short"])
def test_killed_and_resumed_ends_with_the_same_weights(uninterrupted, kill_after, damage):
    scratch = paths.scratch(config.fingerprint(job()))
    for path in scratch.glob("*"):
        path.unlink()
    disarm = kill_after(5)
    with pytest.raises(Killed):
        training.train(job())
    disarm()
    assert sorted(path.name for path in scratch.glob("state_*")) == ["state_00000002.pth", "state_00000004.pth"]
    if damage == "newest state cut short":
        newest = scratch / "state_00000004.pth"
        newest.write_bytes(newest.read_bytes()[:1000])
    elif damage:
        with (scratch / "log.jsonl").open("a") as file:
            file.write('{"iter": 6, "lo')
    assert_same(training.train(job()), uninterrupted)


def test_a_finished_training_is_reused_and_the_interval_of_states_does_not_matter(uninterrupted):
    scratch = training.train(job(interval=3))
    before = (scratch / "checkpoint.pth").stat().st_mtime_ns
    assert training.train(job(interval=2)) == scratch
    assert (scratch / "checkpoint.pth").stat().st_mtime_ns == before


def test_the_fingerprint_follows_what_changes_numbers(workspace):
    first = config.fingerprint(job())
    assert config.fingerprint(replace(job(), name="other")) == first
    assert config.fingerprint(job(seed=1)) != first
    assert config.fingerprint(replace(job(), knobs=replace(job().knobs, sigma=0.2))) != first
    split_file = paths.split_train(DATASET, "nonvoc2voc")
    content = split_file.read_bytes()
    split_file.write_bytes(content + b"\n")
    assert config.fingerprint(job()) != first
    split_file.write_bytes(content)


def test_a_non_finite_loss_stops_with_run_name_and_iteration(workspace):
    exploding = job(seed=7, optimizer={"type": "SGD", "lr": 1e30})
    message = r"run contrastmask_r50_1x_nonvoc2voc: \w+ is (nan|inf) at iteration \d"
    with pytest.raises(ExperimentError, match=message):
        training.train(exploding)


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
            command(lambda: training.train(job(seed=9)))()
    finally:
        image.write_bytes(content)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 1
    assert error.startswith("error: ") and image.name in error and "truncated" in error
