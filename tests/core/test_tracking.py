"""MLflow: one record for a training and its evaluation, continued, never doubled, and never in the way."""

import logging

import pytest

from pipeline import config, paths, tracking

BY_GROUP = {group: {"mAP": 12.5, "AP50": None} for group in ("novel", "base", "all")}
SCORES = {"segm": BY_GROUP, "bbox": BY_GROUP, "per_category": {"segm": {"person": {"AP": 12.5, "AP50": None}}}}


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    return config.resolve("contrastmask_r50_1x_nonvoc2voc", "generated", 0)


def records(last):
    return [{"iter": step, "loss": 1.0 / step, "lr": 0.1} for step in range(10, last + 1, 10)]


def stored(query=""):
    client, experiment = tracking.connect("generated")
    return client, client.search_runs([experiment], query)


def test_a_killed_training_is_continued_and_the_evaluation_finishes_the_same_record(job):
    with pytest.raises(KeyboardInterrupt):
        with tracking.track(job, "f1", "train", "SCHEDULED") as tracker:
            tracker.log_history(records(30))
            raise KeyboardInterrupt
    client, (run,) = stored()
    assert run.info.status == "FAILED"

    with tracking.track(job, "f1", "train", "SCHEDULED") as tracker:
        tracker.log_history(records(20))  # resumed from an earlier state: these points are there already
        tracker.log_history(records(50))
    client, (run,) = stored()
    assert run.info.status == "SCHEDULED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(point.step for point in history) == [10, 20, 30, 40, 50]

    with tracking.track(job, "f1", "evaluate", "FINISHED", {"tables": "table2"}) as tracker:
        tracker.log_scores(SCORES)
    client, (run,) = stored()
    assert run.info.status == "FINISHED" and run.info.run_name == "contrastmask_r50_1x_nonvoc2voc_seed0"
    assert run.data.metrics["novel_mask_mAP"] == 12.5 and "novel_mask_AP50" not in run.data.metrics
    assert run.data.params["sigma"] == "0.3" and run.data.params["direction"] == "nonvoc2voc"
    assert {"fingerprint", "mlflow.source.git.commit", "dvc_stage", "dvc_experiment", "tables"} <= set(run.data.tags)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["per_category.json"]


def test_other_numbers_are_another_record(job):
    for fingerprint in ("f1", "f2", "f1"):
        with tracking.track(job, fingerprint, "train", "SCHEDULED"):
            pass
    assert len(stored()[1]) == 2


def test_the_report_keeps_only_the_newest(job, tmp_path):
    (tmp_path / "reports" / "tables").mkdir(parents=True)
    (tmp_path / "reports" / "tables" / "table2.csv").write_text("row\n")
    for _ in range(2):
        tracking.log_report("generated", tmp_path / "reports")
    client, (run,) = stored("tags.stage = 'report'")
    assert [item.path for item in client.list_artifacts(run.info.run_id, "tables")] == ["tables/table2.csv"]


def test_a_store_out_of_reach_is_reported_once_and_stops_nothing(job, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)  # a stage run by another test turns it off
    with caplog.at_level("WARNING", logger="pipeline.tracking"):
        with tracking.track(job, "f1", "train", "SCHEDULED") as tracker:
            tracker.log_history(records(30))
    assert len(caplog.records) == 1 and "127.0.0.1:9" in caplog.text
    assert not (paths.tracking_store()).exists()
