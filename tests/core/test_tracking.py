"""MLflow: one record for a training and its evaluation, continued, never doubled, and never in the way."""

import dataclasses
import json
import logging
import sys

import pytest

import commands.track
from pipeline import runs
from pipeline.artifacts import paths
from pipeline.artifacts.results import Scores
from pipeline.declaration import config, recipe
from pipeline.tasks.instances import TASK
from pipeline.tracking import page, report, store
from pipeline.tracking.tracker import description, track
from tests.scores import long_tables

ENTRY = long_tables({group: {"mAP": 12.5} for group in ("novel", "base", "all")}, {"person": 12.5})
SCORES = Scores(TASK, ENTRY)


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", store.REQUEST_SECONDS)  # commands.track raises it
    return config.resolve("contrastmask_r50_1x_nonvoc2voc", "generated", 0)


def records(last):
    return [{"iter": step, "loss": 1.0 / step, "lr": 0.1} for step in range(10, last + 1, 10)]


def stored(query=""):
    client, experiment = store.connect("generated")
    return client, client.search_runs([experiment], query)


def test_a_killed_training_is_continued_and_the_evaluation_finishes_the_same_record(job):
    with pytest.raises(KeyboardInterrupt):
        with track(job, "f1", "train", "SCHEDULED") as tracker:
            tracker.log_history(records(30))
            raise KeyboardInterrupt
    client, (run,) = stored()
    assert run.info.status == "KILLED"

    with track(job, "f1", "train", "SCHEDULED") as tracker:
        tracker.log_history(records(20))  # resumed from an earlier state: these points are there already
        tracker.log_history(records(50))
    client, (run,) = stored()
    assert run.info.status == "SCHEDULED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == [10, 20, 30, 40, 50]

    with track(job, "f1", "evaluate", "FINISHED", {"tables": "table2"}) as tracker:
        tracker.log_scores(SCORES)
    client, (run,) = stored()
    assert run.info.status == "FINISHED" and run.info.run_name == "contrastmask_r50_1x_nonvoc2voc_seed0"
    assert run.data.metrics["novel/mask/AP"] == 12.5 and "novel/mask/AP50" not in run.data.metrics
    assert run.data.params["sigma"] == "0.3" and run.data.params["direction"] == "nonvoc2voc"
    assert {"fingerprint", "mlflow.source.git.commit", "dvc_stage", "dvc_experiment", "tables"} <= set(run.data.tags)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["per_category.json"]


def test_the_stages_leave_config_losses_and_scores(job, tmp_path, monkeypatch):
    """With the store away while training: the evaluation brings what the training could not."""
    scratch, results = paths.scratch("f1"), tmp_path / "results.json"

    def train(training, tracker):
        scratch.mkdir(parents=True)
        (scratch / "config.py").write_text("model = dict()")
        (scratch / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records(30)))
        tracker.log_history(records(30)[-1:])
        return scratch

    monkeypatch.setattr(runs, "ensure_images", lambda dataset: None)
    monkeypatch.setattr(recipe, "fingerprint", lambda training: "f1")
    monkeypatch.setattr(runs, "trained_fingerprint", lambda training: "f1")
    monkeypatch.setattr(runs.loop, "train", train)
    monkeypatch.setattr(runs.loop, "publish", lambda *_: None)
    pretended = dataclasses.replace(TASK, predict=lambda *_: None, score=lambda *_: ENTRY)
    monkeypatch.setattr(runs.methods, "task_of", lambda name: pretended)
    monkeypatch.setattr(paths, "results", lambda *_: results)
    monkeypatch.setattr(paths, "log", lambda *_: tmp_path / "none.jsonl")  # not that of this working copy
    connect = store.connect
    monkeypatch.setattr(store, "connect", lambda _: 1 / 0)
    runs.train(job.name, "generated")
    monkeypatch.setattr(store, "connect", connect)
    runs.evaluate(job.name, "generated")
    client, (run,) = stored()
    assert run.info.status == "FINISHED" and run.data.tags["stage"] == "evaluate"
    assert sorted(point.step for point in client.get_metric_history(run.info.run_id, "train/loss")) == [10, 20, 30]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"config.py", "per_category.json"}
    assert json.loads(results.read_text())["per_seed"][0]["fingerprint"] == "f1"


def test_other_numbers_are_another_record(job):
    for fingerprint in ("f1", "f2", "f1"):
        with track(job, fingerprint, "train", "SCHEDULED"):
            pass
    assert len(stored()[1]) == 2


def test_the_report_keeps_only_the_newest(job, tmp_path):
    for name in ("tables/table2.csv", "tables/table1.csv", "figures/loss_curves.png", "index.html"):
        (tmp_path / "reports" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reports" / name).write_text(name)
    for _ in range(2):
        selection = {"tables": {"table2": {}, "oracle": {}}, "figures": {"loss_curves": {}}}
        report.log_report("generated", tmp_path / "reports", selection, {"plain": {"novel/mask/AP": 12.5}})
    client, (run,) = stored("tags.stage = 'report'")
    folders = ("", "tables", "figures")
    kept = {item.path for folder in folders for item in client.list_artifacts(run.info.run_id, folder)}
    assert kept == {"tables", "tables/table2.csv", "figures", "figures/loss_curves.png", "index.html"}
    assert run.data.metrics == {"novel/mask/AP/plain": 12.5}
    assert run.data.tags["tables"] == "table2,oracle"


def test_links_lead_to_the_training_of_a_fingerprint(job):
    assert page.run_links("generated") == {}
    assert not paths.tracking_store().exists()
    for fingerprint in ("f1", "f2"):
        with track(job, fingerprint, "train", "SCHEDULED"):
            pass
    _, runs = stored()
    expected = {
        run.data.tags[
            "fingerprint"
        ]: f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        for run in runs
    }
    assert page.run_links("generated") == {job.name: expected}


def test_links_hold_no_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host:81/mlflow/")
    assert page.page_address() == "https://host:81/mlflow"


def test_no_links_to_a_store_out_of_reach(job, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert page.run_links("generated") is None


def test_a_store_out_of_reach_is_reported_once_and_stops_nothing(job, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)  # a stage run by another test turns it off
    with caplog.at_level("WARNING", logger="pipeline.tracking"):
        with track(job, "f1", "train", "SCHEDULED") as tracker:
            tracker.log_history(records(30))
    assert len(set(caplog.records)) == 1 and "127.0.0.1:9" in caplog.text  # pytest may hand on one record twice
    assert not (paths.tracking_store()).exists()


def test_a_warning_does_not_show_the_password_of_the_store(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:secret@host/db")
    with caplog.at_level("WARNING", logger="pipeline.tracking"):
        store.warn(OSError("postgresql://user:secret@host/db refused"), "going on")
    assert "host/db" in caplog.text and "secret" not in caplog.text


def test_results_without_tracking_files_are_tracked_from_themselves(job, tmp_path, monkeypatch, capsys):
    """As after `scratch/` and the store were removed; a result of other settings than now is left out."""
    monkeypatch.setattr(paths, "results", lambda dataset, run: tmp_path / "results" / f"{run}.json")
    monkeypatch.setattr(paths, "log", lambda dataset, run, seed: tmp_path / "seed0.jsonl")
    monkeypatch.setattr(recipe, "fingerprint", lambda training: "f1")
    monkeypatch.setattr(runs, "trained_fingerprint", lambda training: "f1")
    monkeypatch.setattr(sys, "argv", ["track", "--all"])
    (tmp_path / "results").mkdir()
    for name, fingerprint in ((job.name, "f1"), ("cam_r50_1x_nonvoc2voc", "f0")):
        results = {"run": name, "task": TASK.name, "per_seed": [{"seed": 0, "fingerprint": fingerprint, **ENTRY}]}
        paths.results("generated", name).write_text(json.dumps(results))
    paths.log("generated", job.name, 0).write_text("".join(json.dumps(record) + "\n" for record in records(30)))
    for _ in range(2):
        commands.track.main()
    assert "1 trainings brought up to date" in capsys.readouterr().out
    client, (run,) = stored()
    assert run.data.tags["run"] == job.name and run.info.status == "FINISHED"
    assert run.data.metrics["novel/mask/AP"] == 12.5 and run.data.params["sigma"] == "0.3"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [10, 20, 30]


def test_an_outage_that_remains_is_one_line_that_says_what_to_do(job, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setattr(sys, "argv", ["track"])
    with track(job, "f1", "train", "SCHEDULED") as tracker:
        tracker.log_history(records(30))
    with pytest.raises(SystemExit):
        commands.track.main()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: MLflow store http://127.0.0.1:9") and "python -m commands.track" in line
    assert "secret" not in line


def test_a_run_says_what_its_groups_are_trained_with_whatever_its_direction_is_called():
    training = config.resolve("contrastmask_r50_1x_nonvoc2voc", "generated", 0)
    assert "with masks of the nonvoc categories (base) and boxes alone of the voc categories (novel)" in description(
        training
    )
    boxes = description(dataclasses.replace(training, split="boxes"))
    assert "with masks of the none categories (base) and boxes alone of the all categories (novel)" in boxes
    assert dataclasses.replace(training, split="boxes.maps").direction == "boxes"
