"""One training in several processes, on the CPU with gloo."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.random_kills import job
from pipeline import config, distributed, paths, training
from pipeline.errors import ExperimentError

from .conftest import empty

pytestmark = pytest.mark.slow


@pytest.fixture
def two(monkeypatch, workspace):
    monkeypatch.setenv("CONTRASTMASK_PROCESSES", "2")
    monkeypatch.setenv("CONTRASTMASK_WORKERS", "1")


def content(scratch):
    return torch.load(scratch / "checkpoint.pth", weights_only=True)["state_dict"], (scratch / "log.jsonl").read_text()


def test_two_processes_train_and_an_interrupted_one_ends_with_the_same_weights(two):
    shared = job(seed=3, iterations=20)
    scratch = training.train(shared)
    weights, log = content(scratch)
    assert [json.loads(line)["iter"] for line in log.splitlines()] == list(range(1, 21))
    assert json.loads((scratch / "progress.json").read_text())["processes"] == 2
    empty(scratch)
    # what starts the processes is killed alone; the next attempt waits for those it left, or goes on
    (scratch / distributed.JOB).write_bytes(pickle.dumps(shared))
    starter = subprocess.Popen([*distributed._torchrun(1, 2), "-m", "pipeline.worker", str(scratch)], cwd=paths.ROOT,
                               start_new_session=True, stderr=subprocess.DEVNULL)  # fmt: skip
    while len(training.states_of(scratch)) < 2:
        assert starter.poll() is None
        time.sleep(0.02)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    assert not (scratch / "checkpoint.pth").exists()
    assert training.train(shared) == scratch
    resumed, resumed_log = content(scratch)
    assert resumed_log == log
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())


def test_the_error_of_a_process_is_told_in_its_own_words(two):
    with pytest.raises(ExperimentError, match=r"run contrastmask_r50_1x_nonvoc2voc: \w+ is (nan|inf) at iteration"):
        training.train(job(seed=4, optimizer={"type": "SGD", "lr": 1e30}))


def test_nodes_outside_a_slurm_job_are_refused(workspace, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_NODES", "2")
    with pytest.raises(ExperimentError, match="CONTRASTMASK_NODES is 2, but this is no Slurm job"):
        training.train(job(seed=5))


def test_resuming_with_another_number_of_processes_goes_on(two, monkeypatch):
    shared = job(seed=6, iterations=4)
    scratch = paths.scratch(config.fingerprint(shared))
    monkeypatch.setenv("CONTRASTMASK_PROCESSES", "1")

    class Stop(BaseException):
        pass

    original = training.save_state

    def stop(runner, scratch, step):
        original(runner, scratch, step)
        raise Stop

    monkeypatch.setattr(training, "save_state", stop)
    with pytest.raises(Stop):
        training.train(shared)
    monkeypatch.setattr(training, "save_state", original)
    monkeypatch.setenv("CONTRASTMASK_PROCESSES", "2")
    training.train(shared)
    assert [record["iter"] for record in training.read_log(scratch / "log.jsonl")] == [1, 2, 3, 4]


TWO_PROCESSES = os.path.join(os.path.dirname(__file__), "..", "models", "two_processes.py")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """What tests/models/two_processes.py measures in one process and in two."""
    folder = tmp_path_factory.mktemp("two")
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    for world in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
        subprocess.run([*command, TWO_PROCESSES, str(folder / f"{world}.pth")], check=True, timeout=300,
                       env=os.environ | {"PYTHONPATH": root})  # fmt: skip
    return [torch.load(folder / f"{world}.pth", weights_only=True) for world in (1, 2)]


def assert_close(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-4, atol=2e-6, msg=lambda text, name=name: f"{name} {text}")


def test_a_detector_has_the_losses_and_gradients_of_one_process_with_the_whole_batch(compared):
    one, two = (found["detector"] for found in compared)
    assert "loss_contrastive" in one and one["loss_contrastive"] > 0
    assert_close(one, two)


@pytest.mark.parametrize("shares", ["3 and 3", "5 and 1", "6 and 0"])
def test_contrastive_losses_agree_however_the_rois_are_shared(compared, shares):
    """A process without RoIs takes part with nothing, and nobody waits for it."""
    one, two = (found["head"][shares] for found in compared)
    assert one["loss"] > 0
    assert_close(one, two)


def test_queries_of_each_process_alone_give_another_loss(compared):
    one, two = (found["alone"] for found in compared)
    assert abs(one["loss"] - two["loss"]) > 2e-5 * abs(one["loss"])


def test_batch_statistics_of_the_projector_are_those_of_each_process(compared):
    """projector_norm: batch normalises over the RoIs of a process; `sync`, over all, needs GPUs."""
    one, two = (found["batch_norm"] for found in compared)
    assert_close(one, two)
