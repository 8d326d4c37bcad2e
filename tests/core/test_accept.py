"""Two versions of the code are taken for the same where their tiny trainings are, bit for bit, and nowhere else."""

import contextlib
import json
import math
from dataclasses import replace

import pytest
import torch

from pipeline.acceptance import accept, job
from pipeline.artifacts import checkpoint, paths
from pipeline.declaration import experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.methods.shapemask import clusters
from pipeline.training import loop
from tests import tiny

LOG = [{"iter": 1, "loss": 2.0}, {"iter": 2, "loss": 1.5}]
WEIGHTS = {"head.weight": torch.tensor([1.0, 2.0]), "head.bias": torch.tensor([math.nan])}


def leave(folder, log=LOG, weights=WEIGHTS, **described):
    """What a job leaves."""
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    checkpoint.write(folder / "checkpoint.pth", weights, {})
    (folder / "job.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    "changes, where",
    [
        ({}, None),
        ({"log": [LOG[0], {"iter": 2, "loss": 1.5000001}]}, "at iteration 2 loss is 1.5000001, it was 1.5"),
        ({"log": LOG[:1]}, "1 iterations were logged, not 2"),
        ({"weights": WEIGHTS | {"new": torch.zeros(1)}}, "the tensor new is new"),
        ({"weights": {"head.weight": WEIGHTS["head.weight"]}}, "the tensor head.bias is gone"),
        (
            {"weights": WEIGHTS | {"head.weight": torch.tensor([1.0, math.nextafter(2.0, 3.0)], dtype=torch.float64)}},
            "after the last iteration the tensor head.weight has other values",
        ),
        (
            {"weights": WEIGHTS | {"head.weight": torch.tensor([1.0, 2.0000002])}},
            "after the last iteration the tensor head.weight has other values",
        ),
    ],
)
def test_the_first_difference_is_told(tmp_path, changes, where):
    leave(tmp_path / "old")
    leave(tmp_path / "new", **changes)
    assert accept.difference(tmp_path / "old", tmp_path / "new") == where


@pytest.fixture
def trees(tmp_path, monkeypatch):
    """Stand-ins for the two trees: what their jobs leave is written by the test."""
    monkeypatch.setattr(paths, "accepted", lambda: tmp_path / "accepted.yaml")
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(accept, "_job", lambda tree, runs: contextlib.nullcontext())
    monkeypatch.setattr(accept, "_wait", lambda process, tree: None)
    monkeypatch.setattr(accept, "_git", lambda *arguments: "")
    monkeypatch.setattr(accept.shutil, "copy", lambda *_: None)
    jobs = {name: tmp_path / f"home/scratch/accept/{name}/scratch/jobs" for name in ("old", "new")}
    monkeypatch.setattr(accept, "_copy", lambda folder: folder)
    return jobs


RUN = "contrastmask_r50_1x_nonvoc2voc"
OLD = {"configuration": {"lr": 1}, "code": {"pipeline.a": "1"}}
MOVED = {"configuration": {"lr": 1}, "code": {"pipeline.b": "1"}}
RENAMED = {"configuration": {"rate": 1}, "code": {"pipeline.b": "1"}}


def described(content, epochs=12):
    return {
        "recipe": recipe.identity(content),
        "code": recipe.code_identity(content),
        "content": content,
        "replaced": {"schedule": {"epochs": epochs}},
    }


def test_code_that_trains_the_same_is_accepted(trees):
    before = recipe.identity(OLD)
    leave(trees["old"] / RUN, **described(OLD))
    leave(trees["new"] / RUN, **described(MOVED))
    added = accept.accept("HEAD")
    assert added == {"code": {recipe.code_identity(MOVED): recipe.code_identity(OLD)}, "recipes": {}}
    assert recipe.identity(MOVED) == before


def test_another_configuration_that_trains_the_same_is_accepted_for_its_run(trees):
    before = recipe.identity(OLD)
    leave(trees["old"] / RUN, **described(OLD))
    leave(trees["new"] / RUN, **described(RENAMED))
    assert list(accept.accept("HEAD", ["all"])["recipes"].values()) == [before]
    assert recipe.identity(RENAMED) == before


def test_what_the_jobs_replace_is_never_accepted(trees):
    """The length of a training, of which they see nothing."""
    leave(trees["old"] / RUN, **described(OLD))
    leave(trees["new"] / RUN, **described(RENAMED, epochs=13))
    assert accept.accept("HEAD", ["all"])["recipes"] == {}


def test_a_job_that_differs_accepts_nothing(trees):
    leave(trees["old"] / RUN, **described(OLD))
    leave(trees["new"] / RUN, log=LOG[::-1], **described(MOVED))
    with pytest.raises(ExperimentError, match=f"nothing was accepted, since job {RUN} differs: at iteration 2"):
        accept.accept("HEAD")
    assert not paths.accepted().exists()


def test_every_job_finds_what_it_starts_from(monkeypatch):
    """A pre-training starts from weights of its own, those of a classifier."""
    declared, written = experiments.load(), set()
    for name in ("prepare", "hide"):
        monkeypatch.setattr(job, name, lambda *_, **__: None)
    monkeypatch.setattr(job.checkpoint, "write", lambda path, *_: written.add(path))
    monkeypatch.setattr(job, "_code", lambda training: training.method)
    monkeypatch.setattr(clusters, "make", lambda dataset, direction, out: written.add(out))
    job.draw_inputs(declared)
    jobs = job.jobs(declared, ["all"])
    assert {"simformer.paper", "simformer.released", "retab.pinned"} <= jobs.keys()
    assert not [name for name, training in jobs.items() if training.labels]
    starts = {training.initial_weights for training in jobs.values()}
    assert {"r50", "classifier_r50"} <= starts
    assert {paths.initial_weights(job.DATASET, key) for key in starts - {None}} <= written
    assert paths.learnt_priors(job.DATASET, "voc2nonvoc_shapemask") in written


def test_what_is_no_commit_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    with pytest.raises(ExperimentError, match="nowhere.*name a commit of this repository"):
        accept.accept("nowhere")


@pytest.mark.slow
def test_a_finished_training_of_before_counts_as_one_of_today(workspace, monkeypatch):
    training = tiny.job()
    monkeypatch.setattr(accept, "_resolved", lambda dataset, name, seed: replace(training, seed=seed))
    weights = {"weight": torch.ones(2)}
    checkpoint.write(paths.scratch("f" * 20) / "checkpoint.pth", weights, {"fingerprint": "f" * 20, "CLASSES": ["cat"]})
    (paths.scratch("f" * 20) / "log.jsonl").write_text("{}\n")
    old = (training.dataset, training.name, 21, "f" * 20)
    assert accept._source(*old) and not accept._source(training.dataset, training.name, 21, "e" * 20)
    assert accept._adopt(*old) and not accept._adopt(*old)
    scratch = paths.scratch(recipe.fingerprint(replace(training, seed=21)))
    assert loop.finished(scratch) and (scratch / "log.jsonl").read_text() == "{}\n"
    content = checkpoint.read(scratch / "checkpoint.pth")
    assert torch.equal(content["state_dict"]["weight"], weights["weight"]) and content["meta"]["CLASSES"] == ["cat"]


@pytest.mark.slow
def test_a_job_trains_each_step_at_full_rate_and_past_a_milestone(workspace):
    scratch = loop.train(job.shrunk(tiny.job()))
    rates = [json.loads(line)["lr"] for line in (scratch / "log.jsonl").read_text().splitlines()]
    assert len(rates) == job.STEPS and max(rates) > 10 * rates[0]
