"""A local store that cannot be used: one line within a bound, training goes on, and the printed remedy works."""

import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from pipeline import doctor
from pipeline.artifacts import paths
from pipeline.errors import ExperimentError
from pipeline.tracking import store, sync
from pipeline.tracking.record import Record
from pipeline.tracking.tracker import track
from tests.tracking.stand_in import differences, training, write_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store with one experiment: making the tables takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTRASTMASK_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store.connect("generated")
        return shutil.copy(paths.tracking_store(), folder / "copy.db")


@pytest.fixture
def store_file(template, tmp_path, monkeypatch):
    home = tmp_path / "with space"
    home.mkdir()
    monkeypatch.setenv("CONTRASTMASK_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", store.REQUEST_SECONDS)
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    paths.tracking_store().parent.mkdir()
    return shutil.copy(template, paths.tracking_store())


def warned(caplog):
    """What a training says while the store cannot be used; its records are kept."""
    caplog.clear()
    job = training("job")
    with caplog.at_level("WARNING", logger="pipeline"):
        with track(job, job.name, "train", "SCHEDULED") as tracker:
            tracker.log_history([write_record(job.name, 10), write_record(job.name, 20)])
    (message,) = {record.getMessage() for record in caplog.records}
    assert "\n" not in message and str(paths.tracking_records() / "generated") in message
    assert (paths.tracking_records() / "generated").is_dir()
    return message


def follow(message):
    """Run the commands that a message prints, in their order, as a shell does; `commands.track` within this process."""
    *commands, last = re.findall(r"`([^`]+)`", message)
    assert last in ("python -m commands.track", "python -m commands.track --all")
    environment = os.environ | {"PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=paths.ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    everything = last.endswith("--all")
    if everything:  # another spelling: this process has the file open that was put aside
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:////{paths.tracking_store()}"
    assert "1 trainings brought up to date" in sync.complete(everything)
    client, experiment = store.connect("generated")
    (run,) = client.search_runs([experiment])
    assert run.info.status == "SCHEDULED" and differences(client, run, [10, 20]) == []


def test_a_deleted_experiment_is_brought_back(store_file, caplog):
    client, experiment = store.connect("generated")
    client.delete_experiment(experiment)
    message = warned(caplog)
    assert f"mlflow experiments restore -x {experiment}" in message and str(store_file) in message
    with pytest.raises(ExperimentError, match=f"restore -x {experiment}"):
        sync.complete(everything=False)
    with pytest.raises(doctor.Problem) as found:
        doctor.check_mlflow()
    assert f"restore -x {experiment}" in found.value.finding[1]
    follow(message)
    assert "local store" in doctor.check_mlflow()


def test_a_damaged_file_is_put_aside_and_filled_again(store_file, caplog):
    paths.tracking_store().write_bytes(b"not a database, but as long as a page of one\n" * 200)
    message = warned(caplog)
    assert "damaged" in message
    follow(message)
    assert paths.tracking_store().with_name("mlflow.db.damaged").exists()


@pytest.mark.parametrize(("revision", "remedy"), [("451aebb31d03", "db upgrade"), ("f00dfeed0001", ".newer")])
def test_tables_of_another_version(store_file, caplog, revision, remedy):
    """Of an older one, which is lifted (only the number is old here: no table), and of a newer one."""
    with sqlite3.connect(store_file) as database:
        database.execute("update alembic_version set version_num = ?", [revision])
    database.close()
    message = warned(caplog)
    assert remedy in message and "MLflow" in message
    if remedy == ".newer":
        follow(message)


def test_the_tables_of_an_older_version_are_lifted(store_file):
    """Made as the version of MLflow before made them. This one lifts those by itself: its complaint is a stand-in."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    def revision():
        with sqlite3.connect(store_file) as database:
            return database.execute("select version_num from alembic_version").fetchall()

    paths.tracking_store().unlink()
    engine = create_engine(f"sqlite:///{store_file}")
    Base.metadata.create_all(engine)
    engine.dispose()
    changes = _get_alembic_config(f"sqlite:///{store_file}")
    head, before, *_ = ScriptDirectory.from_config(changes).walk_revisions()
    command.upgrade(changes, before.revision)
    _, remedy = store._explain_schema(f"out-of-date database schema (found version {before.revision}", store_file)
    upgrade, again = re.findall(r"`([^`]+)`", remedy)
    environment = os.environ | {"PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(upgrade, shell=True, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert revision() == [(head.revision,)] and paths.tracking_store().with_name("mlflow.db.old").exists()
    assert again == "python -m commands.track" and "brought up to date" in sync.complete(everything=False)


def test_a_locked_database_holds_nothing_up_for_long(store_file, caplog, monkeypatch):
    database = sqlite3.connect(store_file, isolation_level=None)
    database.execute("begin exclusive")
    with monkeypatch.context() as patch:
        patch.setattr(store, "OPEN_SECONDS", 3.0)
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # by which the bound is raised
        began = time.monotonic()
        message = warned(caplog)
        assert time.monotonic() - began < 30  # twice the bound, on a busy machine; mlflow itself tries for minutes
    assert "locked by another process" in message or "could not be opened within" in message
    database.execute("rollback")
    database.close()
    message = re.sub(r"`fuser [^`]*`", "", message)  # a program that not every machine has
    follow(message)


def test_a_file_that_cannot_be_written(store_file, caplog, monkeypatch):
    """Whoever runs the tests may be root, whom no permission stops: the driver is told to open it so."""
    with monkeypatch.context() as patch:
        patch.setattr(
            sync,
            "settle",
            lambda *_: sqlite3.connect(f"file:{store_file}?mode=ro", uri=True).execute("create table t(x)"),
        )
        message = warned(caplog)
    assert "cannot be written" in message and "CONTRASTMASK_HOME" in message
    follow(message)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("htp://host", "scheme 'htp'"),
        ("mongodb://host/db", "valid: http, https, sqlite, postgresql, file"),
        ("postgresql://me:a/Zq9x@b@host/db", "%40"),
        ("http://me:Zq9x s@host", "%20"),
        ("http://me:Zq9x@127.0.0.1:9", "repeat `python -m commands.track` when it answers"),
        ("postgresql://me:Zq9x@127.0.0.1:9/db", "refused"),
    ],
)
def test_an_address_that_leads_nowhere(store_file, caplog, monkeypatch, uri, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    message = warned(caplog)
    assert said in message and "Zq9x" not in message
    with pytest.raises(doctor.Problem) as found:
        doctor.check_mlflow()
    assert "Zq9x" not in str(found.value.finding)


def test_a_store_that_never_answers_is_left_after_the_bound(store_file, caplog, monkeypatch):
    monkeypatch.setattr(store, "OPEN_SECONDS", 0.2)
    monkeypatch.setattr(store, "_experiment", lambda *_: time.sleep(60))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0")
    began = time.monotonic()
    assert "could not be opened within 0 s" in warned(caplog)
    assert time.monotonic() - began < 20


def test_a_run_says_what_it_is_and_where_it_came_from(store_file, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "manifest", lambda dataset: tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text("{}")
    job = training("described")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Zq9xZq9x")
    monkeypatch.setenv("DVC_EXP_NAME", "Zq9xZq9x")
    with track(job, job.name, "train", "SCHEDULED") as tracker:
        tracker.log_history([write_record(job.name, 10)])
    client, experiment = store.connect("generated")
    (run,) = client.search_runs([experiment])
    tags = run.data.tags
    assert "class activation map" in tags["mlflow.note.content"]
    assert "contrastive learning head" in tags["mlflow.note.content"]
    assert tags["mlflow.source.name"] == "stages/train.py" and tags["mlflow.source.git.commit"]
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "generated" and given.tags[0].value == "training"
    assert "train/loss_mask" in run.data.metrics
    assert not any("Zq9x" in value for value in (tags | run.data.params).values())
    sync.complete(everything=True)
    (run,) = client.search_runs([experiment])
    assert len(run.inputs.dataset_inputs) == 1


def test_a_run_under_the_names_of_former_versions_gets_the_new_ones_beside_them(store_file):
    job = training("former")
    with track(job, job.name, "train", "SCHEDULED"):
        pass
    client, experiment = store.connect("generated")
    (run,) = client.search_runs([experiment])
    client.log_metric(run.info.run_id, "loss", 1.0, step=10)
    record = Record(job.dataset, job.name, job.seed, job.name)
    record.own()
    record.change(scores={"metrics": {"novel_mask_mAP": 12.5, "base_box_AP50": 3.0}, "per_category": {}, "time": 1})
    record.release()
    sync.complete(everything=True)
    (run,) = client.search_runs([experiment])
    assert run.data.metrics == {"loss": 1.0, "novel/mask/AP": 12.5, "base/box/AP50": 3.0}
