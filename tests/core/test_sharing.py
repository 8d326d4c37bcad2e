"""One training in several processes, on the CPU with gloo."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch

from pipeline.artifacts import paths
from pipeline.artifacts.training_log import read_log
from pipeline.declaration import recipe
from pipeline.errors import ExperimentError, Interrupted
from pipeline.training import loop, states, torchrun
from tests.tiny import job

from .conftest import empty

pytestmark = pytest.mark.slow


@pytest.fixture
def two(monkeypatch, workspace):
    monkeypatch.setenv("CONTRASTMASK_PROCESSES", "2")
    monkeypatch.setenv("CONTRASTMASK_WORKERS", "1")


SHARED = {"seed": 3, "iterations": 24}  # ended in each of four ways in turn, then the rest


def listening(number):
    """Addresses at which a process and those that it started accept connections."""
    starter = psutil.Process(number)
    return {
        connection.laddr.ip
        for process in [starter, *starter.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def content(scratch):
    return torch.load(scratch / "checkpoint.pth", weights_only=True)["state_dict"], (scratch / "log.jsonl").read_text()


@pytest.fixture(scope="module")
def whole(tiny_root):
    """Weights and log of the training in two processes, never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", tiny_root)
        patch.setenv("CONTRASTMASK_HOME", str(tiny_root))
        patch.setenv("CONTRASTMASK_PROCESSES", "2")
        patch.setenv("CONTRASTMASK_WORKERS", "1")
        scratch = loop.train(job(**SHARED))
    found = content(scratch)
    assert json.loads((scratch / "progress.json").read_text())["processes"] == 2
    empty(scratch)
    return found


def assert_same(scratch, whole):
    weights, log = content(scratch)
    assert log == whole[1]
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole[0].items())


def test_two_processes_log_every_step(whole):
    assert [json.loads(line)["iter"] for line in whole[1].splitlines()] == list(range(1, 25))


# Each of the next four ends the training in its way, wherever the one before has left it, and the fifth lets it end:
# starting two processes costs more than what they train.


def steps_done(scratch):
    """Steps of the newest state."""
    return max((int(path.name.split("_")[1]) for path in states.of(scratch)), default=0)


def test_a_killed_training_of_two_processes_leaves_its_states(whole, two, tmp_path):
    shared = job(**SHARED)
    scratch = paths.scratch(recipe.fingerprint(shared))
    empty(scratch)
    # what starts the processes is killed alone; the next attempt waits for those it left, or goes on
    (scratch / torchrun.JOB).write_text(shared.to_json())
    command = [*torchrun.command(1, 2, tmp_path), "-m", "pipeline.training.training_process", str(scratch)]
    starter = subprocess.Popen(
        command,
        cwd=paths.ROOT,
        env=os.environ | torchrun.among_themselves(tmp_path),
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    while len(states.of(scratch)) < 2:
        assert starter.poll() is None
        time.sleep(0.02)
    assert listening(starter.pid) <= {"127.0.0.1", "::1"}, "a stranger on the network can reach the training"
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    assert not (scratch / "checkpoint.pth").exists()


def after_steps(scratch, steps, act):
    """Act once that many more steps are logged, from a thread of its own."""
    log = scratch / "log.jsonl"
    before = len(read_log(log)) if log.exists() else 0  # maybe more than those of the newest state

    def watch():
        while not log.exists() or len(read_log(log)) < before + steps:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def to_the_starter(_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)  # as a job script does until the training has ended


def to_one_process(scratch):
    found = subprocess.run(
        ["pgrep", "-f", f"^{sys.executable} -u -m pipeline.training.training_process {scratch}"],
        capture_output=True,
        text=True,
        check=True,
    )
    _, second, *_data_workers = found.stdout.split()
    os.kill(int(second), signal.SIGTERM)


@pytest.mark.parametrize("signal_to", [to_the_starter, to_one_process])
def test_sigterm_saves_the_state_of_all_processes(whole, two, signal_to):
    shared = job(**SHARED, interval=1000)  # no state but the one that the signal asks for
    scratch = paths.scratch(recipe.fingerprint(shared))
    before = steps_done(scratch)
    after_steps(scratch, 2, lambda: signal_to(scratch))
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM at step \d+; the state is saved") as stopped:
        loop.train(shared)
    state = torch.load(states.of(scratch)[-1], weights_only=True)
    assert state["step"] >= before + 2 and f"at step {state['step']};" in str(stopped.value)
    assert not list(scratch.glob("*.part"))


def test_the_processes_of_a_killed_starter_save_their_state_and_end(whole, two):
    shared = job(**SHARED, interval=1000)
    scratch = paths.scratch(recipe.fingerprint(shared))
    before = steps_done(scratch)
    starter = os.fork()
    if not starter:
        try:
            loop.train(shared)
        finally:
            os._exit(1)
    after_steps(scratch, 2, lambda: os.kill(starter, signal.SIGKILL)).join()
    os.waitpid(starter, 0)
    while not list(scratch.glob("stopped.*")):
        assert not (scratch / "checkpoint.pth").exists()
        time.sleep(0.02)
    assert steps_done(scratch) >= before + 2


def test_what_was_ended_in_these_ways_ends_with_the_same_weights(whole, two):
    assert_same(loop.train(job(**SHARED)), whole)


def test_the_error_of_a_process_is_told_in_its_own_words(two):
    with pytest.raises(ExperimentError, match=r"run contrastmask_r50_1x_nonvoc2voc: \w+ is (nan|inf) at iteration"):
        loop.train(job(seed=4, optimizer={"type": "SGD", "lr": 1e30}))


def test_a_process_that_crashes_is_no_interruption(two, tmp_path, monkeypatch):
    """torchrun ends the others with SIGTERM, and they say so."""
    command = tmp_path / "command.py"
    command.write_text(
        "import pathlib, sys\n"
        "scratch = pathlib.Path(sys.argv[-1])\n"
        "(scratch / 'stopped.0').write_text('stopped by SIGTERM')\n"
        "(scratch / 'crashed.1').write_text('CUDA out of memory')\n"
        "sys.exit(1)\n"
    )
    monkeypatch.setattr(torchrun, "command", lambda *_: [sys.executable, str(command)])
    with pytest.raises(ExperimentError, match="a process of 1 x 2 ended with code 1, see above") as failed:
        loop.train(job(seed=8))
    assert not isinstance(failed.value, Interrupted)


def test_nodes_outside_a_slurm_job_are_refused(workspace, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_NODES", "2")
    with pytest.raises(ExperimentError, match="CONTRASTMASK_NODES is 2, but this is no Slurm job"):
        loop.train(job(seed=5))


def test_resuming_with_another_number_of_processes_goes_on(two, monkeypatch):
    shared = job(seed=6, iterations=4)
    scratch = paths.scratch(recipe.fingerprint(shared))
    monkeypatch.setenv("CONTRASTMASK_PROCESSES", "1")

    class Stop(BaseException):
        pass

    original = states.save

    def stop(*arguments):
        original(*arguments)
        raise Stop

    monkeypatch.setattr(states, "save", stop)
    with pytest.raises(Stop):
        loop.train(shared)
    monkeypatch.setattr(states, "save", original)
    monkeypatch.setenv("CONTRASTMASK_PROCESSES", "2")
    loop.train(shared)
    assert [record["iter"] for record in read_log(scratch / "log.jsonl")] == [1, 2, 3, 4]


TWO_PROCESSES = os.path.join(os.path.dirname(__file__), "..", "models", "two_processes.py")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """What tests/models/two_processes.py measures in one process and in two."""
    folder = tmp_path_factory.mktemp("two")
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    for world in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
        subprocess.run(
            [*command, TWO_PROCESSES, str(folder / f"{world}.pth")],
            check=True,
            timeout=300,
            env=os.environ | {"PYTHONPATH": root},
        )
    return [torch.load(folder / f"{world}.pth", weights_only=True) for world in (1, 2)]


def assert_close(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-4, atol=2e-6, msg=lambda text, name=name: f"{name} {text}")


@pytest.mark.parametrize("model", ["detector", "normalised detector"])
def test_a_detector_has_the_losses_and_gradients_of_one_process_with_the_whole_batch(compared, model):
    one, two = (found[model] for found in compared)
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
