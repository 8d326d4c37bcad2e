"""A store that fails in every way there is: training goes on, and in the end every point is stored exactly once."""

import multiprocessing
import os
import signal
import time

import pytest

from pipeline.artifacts.results import Scores
from pipeline.errors import ExperimentError
from pipeline.tasks.instances import TASK
from pipeline.tracking import record, store, sync
from pipeline.tracking.tracker import Tracker, track
from tests.scores import long_tables
from tests.tracking.stand_in import METRICS_OF_SCORES, SCORES, differences, training, write_record

FORK = multiprocessing.get_context("fork")


def train(job, fingerprint, steps, during=lambda step: None, pause=0.0):
    with track(job, fingerprint, "train", "SCHEDULED") as tracker:
        for step in steps:
            during(step)
            tracker.log_history([write_record(fingerprint, step)])
            time.sleep(pause)
        tracker.log_history(tracker.record.log())


def evaluate(job, fingerprint):
    with track(job, fingerprint, "evaluate", "FINISHED") as tracker:
        tracker.log_scores(SCORES)


def stored(job):
    """Client and the one MLflow run of a job."""
    client, experiment = store.connect("generated")
    (run,) = client.search_runs([experiment], f"tags.run = '{job.name}'")
    return client, run


def pending():
    return len(record.Record.found(pending_only=True))


def assert_complete(job, status, steps):
    client, run = stored(job)
    assert run.info.status == status and pending() == 0
    assert differences(client, run, steps) == []
    assert run.data.params["sigma"] == "0.3" and run.data.tags["direction"] == "nonvoc2voc"
    if status == "FINISHED":
        assert len([key for key in run.data.metrics if "/AP" in key]) == METRICS_OF_SCORES
        assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["per_category.json"]


@pytest.mark.parametrize("kind", ["drop", "lose", "fail"])
def test_the_same_process_catches_up(server, kind):
    job = training(f"catches_up_{kind}")

    def outage(step):
        if step == 30:
            server.fault(kind)
        if step == 60:
            server.heal()

    train(job, job.name, range(10, 101, 10), outage)
    assert_complete(job, "SCHEDULED", range(10, 101, 10))


@pytest.mark.parametrize("request_path", ["runs/create", "log-batch", "runs/update", "runs/search", "get-history"])
@pytest.mark.parametrize("kind", ["drop", "lose"])
def test_no_single_request_matters(server, kind, request_path):
    job = training(f"single_{kind}_{request_path.replace('/', '_')}")
    server.fault(kind, request_path, times=1)
    train(job, job.name, [10, 20])
    server.fault(kind, request_path, times=1)
    evaluate(job, job.name)
    sync.settle_all(60)
    assert_complete(job, "FINISHED", [10, 20])


@pytest.mark.parametrize("chance", [0.1, 0.3])
def test_faults_at_random(server, chance):
    job = training(f"random_{chance}")
    server.fault("any", chance=chance)
    train(job, job.name, range(10, 201, 10))
    evaluate(job, job.name)
    server.heal()
    sync.settle_all(60)
    assert_complete(job, "FINISHED", range(10, 201, 10))


def test_a_batch_that_arrives_after_its_repetition_is_no_second_point(server):
    job = training("late")
    train(job, job.name, range(10, 41, 10), lambda step: step == 20 and server.fault("late", "log-batch", times=1))
    time.sleep(2)
    assert_complete(job, "SCHEDULED", range(10, 41, 10))


def test_a_create_that_arrives_after_its_repetition_is_no_second_run(server):
    job = training("late_create")
    server.fault("late", "runs/create", times=1)
    train(job, job.name, [10, 20], pause=1.2)
    evaluate(job, job.name)
    assert_complete(job, "FINISHED", [10, 20])


def test_a_hanging_server_hardly_delays_a_training(server, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.tracker.PAUSE", 20)
    job = training("hanging")
    tracker = Tracker(job, job.name, "train")
    server.fault("hang")
    began = time.monotonic()
    for step in range(10, 2001, 10):
        tracker.log_history([write_record(job.name, step)])
    assert time.monotonic() - began < 2  # one request of a second, then it is left alone
    server.heal()
    tracker.end("SCHEDULED")
    assert_complete(job, "SCHEDULED", range(10, 2001, 10))


def test_a_slow_server_does_not_hold_up_for_longer_than_agreed(server, monkeypatch):
    monkeypatch.setattr(sync, "SETTLE_SECONDS", 0.0)
    job = training("slow")
    began = time.monotonic()
    train(job, job.name, [10, 20])
    assert time.monotonic() - began < 3 and pending() == 1
    assert sync.settle_all(60)[0] == 1
    assert_complete(job, "SCHEDULED", [10, 20])


def test_an_outage_of_a_whole_training_is_mended_by_the_next_stage_of_another(server):
    lost, other = training("lost"), training("other")
    server.fault("drop")
    train(lost, lost.name, [10, 20])
    with pytest.raises(ExperimentError, match="1 trainings are not complete.*commands.track"):
        sync.complete(everything=False)
    server.heal()
    train(other, other.name, [10])
    assert_complete(lost, "SCHEDULED", [10, 20])


def test_the_store_is_filled_again_from_files_alone(server, monkeypatch):
    job = training("moved")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    train(job, job.name, [10, 20])
    evaluate(job, job.name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address.replace("http://", "http://me:secret@"))
    assert "1 trainings brought up to date" in sync.complete(everything=True)
    assert_complete(job, "FINISHED", [10, 20])
    files = [path for path in record.paths.tracking_records().rglob("*") if path.is_file()]
    assert files and not any("secret" in path.read_text() for path in files)


def test_what_waits_for_another_store_is_not_sent_to_this_one(server, monkeypatch):
    job = training("elsewhere")
    server.fault("drop")
    train(job, job.name, [10])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync.settle_all(60) == (0, 0, 1, [])
    assert pending() == 1


def killed_training(job, steps):
    """A training in a process of its own that is killed with SIGKILL after its last step."""

    def work():
        with track(job, job.name, "train", "SCHEDULED") as tracker:
            for step in steps:
                tracker.log_history([write_record(job.name, step)])
            ready.set()
            time.sleep(60)

    ready = FORK.Event()
    process = FORK.Process(target=work)
    process.start()
    assert ready.wait(60)
    return process


def test_a_killed_training_is_neither_running_nor_finished_and_can_go_on(server):
    job = training("killed")
    process = killed_training(job, [10, 20])
    assert sync.settle_all(60) == (0, 1, 0, [])
    assert stored(job)[1].info.status == "RUNNING"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert stored(job)[1].info.status == "RUNNING"
    assert sync.settle_all(60) == (1, 0, 0, [])
    assert_complete(job, "KILLED", [10, 20])
    assert sync.settle_all(60) == (0, 0, 0, [])
    train(job, job.name, [30])
    assert_complete(job, "SCHEDULED", [10, 20, 30])


def test_an_error_is_failed_and_no_outage_makes_it_finished(server):
    job = training("failing")
    with pytest.raises(RuntimeError):
        with track(job, job.name, "evaluate", "FINISHED"):
            server.fault("drop")
            raise RuntimeError
    server.heal()
    sync.settle_all(60)
    assert_complete(job, "FAILED", [])


def test_scores_are_stored_once_however_often_they_are_made_and_newer_ones_are_shown(server):
    job = training("scores")
    for _ in range(2):
        evaluate(job, job.name)
    client, run = stored(job)
    assert len(client.get_metric_history(run.info.run_id, "novel/mask/AP")) == 1
    better = {"novel": {"mAP": 13.0}, "base": {"mAP": 2.0}, "all": {"mAP": 12.5}}
    with track(job, job.name, "evaluate", "FINISHED") as tracker:
        tracker.log_scores(Scores(TASK, long_tables(better, {})))
    client, run = stored(job)
    assert run.data.metrics["novel/mask/AP"] == 13.0 and run.data.metrics["base/mask/AP"] == 2.0
    assert len(client.get_metric_history(run.info.run_id, "all/mask/AP")) == 1


def test_two_writers_that_cannot_see_each_other_end_with_one_run(server, home, monkeypatch):
    """Two machines create the run at the same time: each finds no run, then both create one."""
    job = training("twice")
    tracker = Tracker(job, job.name, "train")
    tracker.log_history([write_record(job.name, 10)])
    client, run = stored(job)
    identity = {key: run.data.tags[key] for key in ("run", "seed", "fingerprint")}
    earlier = client.create_run(run.info.experiment_id, start_time=run.info.start_time - 1000, tags=identity)

    monkeypatch.setenv("CONTRASTMASK_HOME", str(home / "other"))
    other = Tracker(job, job.name, "train")
    other.log_history([write_record(job.name, 10)])
    assert stored(job)[1].info.run_id == earlier.info.run_id

    monkeypatch.setenv("CONTRASTMASK_HOME", str(home))
    for step in (20, 30):  # the first of these finds its run deleted
        tracker.log_history([write_record(job.name, step)])
    other.end("SCHEDULED")
    tracker.end("SCHEDULED")
    client, run = stored(job)
    assert run.info.run_id == earlier.info.run_id and run.info.status == "SCHEDULED"
    assert differences(client, run, [10, 20, 30]) == []


def test_a_second_process_of_the_same_training_waits_its_turn(server):
    job = training("shared")
    process = killed_training(job, [10])
    tracker = Tracker(job, job.name, "train")
    tracker.log_history([write_record(job.name, 20)])
    assert not tracker.reached
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    tracker.log_history([write_record(job.name, 30)])
    assert tracker.reached
    tracker.end("SCHEDULED")
    assert_complete(job, "SCHEDULED", [10, 20, 30])


@pytest.mark.parametrize("text", ["", "{", "10 17"], ids=["empty", "cut", "half a line"])
def test_files_cut_by_a_power_failure_are_no_obstacle(server, text):
    job = training(f"cut_{len(text)}")
    train(job, job.name, [10, 20])
    kept = record.Record(job.dataset, job.name, job.seed, job.name)
    for suffix in (".json", ".times"):
        kept._file(suffix).write_text(text)
    train(job, job.name, [30])
    evaluate(job, job.name)
    assert_complete(job, "FINISHED", [10, 20, 30])


def test_several_processes_share_the_local_store(home):
    def work(name):
        job = training(name)
        train(job, name, range(10, 201, 10), pause=0.01)
        evaluate(job, name)

    processes = [FORK.Process(target=work, args=(f"local_{number}",)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sync.complete(everything=False).startswith("MLflow store local: ")
    for number in range(4):
        assert_complete(training(f"local_{number}"), "FINISHED", range(10, 201, 10))


def test_a_restart_of_the_server_in_the_middle(server):
    """The server is killed and comes back with the same database while three trainings go on."""

    def work(name):
        job = training(name)
        train(job, name, range(10, 601, 10), pause=0.05)
        evaluate(job, name)

    names = [f"restart_{number}" for number in range(3)]
    processes = [FORK.Process(target=work, args=(name,)) for name in names]
    for process in processes:
        process.start()
    time.sleep(1)
    server.kill()
    server.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    sync.complete(everything=False)
    for name in names:
        assert_complete(training(name), "FINISHED", range(10, 601, 10))
