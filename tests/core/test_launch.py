"""The order in which `stages.launch` asks DVC for things, and what it does about failures; DVC itself is pretended."""

import threading

import pytest

from pipeline import experiments, launch, paths
from pipeline.errors import ExperimentError


class Dvc:
    """Stands in for `dvc repro`: remembers its calls, fails for chosen targets."""

    def __init__(self):
        self.calls, self.failing, self.lock, self.running, self.most = [], set(), threading.Lock(), 0, 0

    def __call__(self, *targets, single=False, force=False, echo=False, gpu=None):
        with self.lock:
            self.calls.append((targets, single, force))
            self.running += 1
            self.most = max(self.most, self.running)
        threading.Event().wait(0.02)
        with self.lock:
            self.running -= 1
        return int(bool(self.failing & set(targets)))

    def position(self, target):
        return next(i for i, (targets, *_) in enumerate(self.calls) if target in targets)

    @property
    def report(self):
        targets, single, force = self.calls[-1]
        assert single and "report" in targets
        return targets, force


@pytest.fixture
def dvc(tmp_path, monkeypatch):
    fake = Dvc()
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "SELECTION", tmp_path / "selection.yaml")
    monkeypatch.setattr(launch, "_dvc", fake)
    monkeypatch.setattr(launch, "_up_to_date", lambda: False)
    monkeypatch.setattr(launch, "REFRESH_SECONDS", 0.01)
    experiments.select(["table2", "table1"])
    return fake


def test_every_run_once_after_its_weights_and_long_ones_first(dvc):
    launch.launch(2, "generated")
    assert dvc.calls[0] == (("download", "split"), False, False)
    selection = experiments.selected()
    steps = [targets for targets, *_ in dvc.calls[1:-1]]
    assert sorted(steps) == sorted(
        [(f"pretrain@{name}",) for name in selection["backbones"]]
        + [(f"train@{name}", f"evaluate@{name}") for name in selection["runs"]]
    )
    for name, run in selection["runs"].items():
        assert dvc.position(f"pretrain@{run['backbone']}") < dvc.position(f"train@{name}")
    schedules = [selection["runs"][step[1].split("@")[1]]["schedule"] for step in steps if len(step) == 2]
    assert schedules == sorted(schedules, reverse=True)
    assert dvc.most == 2
    priors = tuple(f"priors@{name}" for name in selection["priors"])
    assert priors and dvc.report == (("headline", *priors, "tables", "figures", "report"), False)


def test_a_failed_run_stops_no_other_and_is_named_after_the_report(dvc):
    dvc.failing = {"train@cam_r50_1x_nonvoc2voc"}
    message = r"1 of \d+ runs have no result: cam_r50_1x_nonvoc2voc \(train@cam.* failed, see"
    with pytest.raises(ExperimentError, match=message):
        launch.launch(2, "generated")
    assert dvc.position("train@current") and dvc.report[1] is True
    dvc.failing = set()
    launch.launch(2, "generated")
    assert dvc.report[1] is True  # what the report said of the failure has to go
    launch.launch(2, "generated")
    assert dvc.report[1] is False


def test_runs_of_a_backbone_without_weights_are_not_tried(dvc):
    dvc.failing = {"pretrain@x101"}
    with pytest.raises(ExperimentError, match=r"contrastmask_x101_3x_nonvoc2voc \(pretrain@x101 failed, see"):
        launch.launch(1, "generated")
    steps = [target for targets, *_ in dvc.calls for target in targets]
    assert "train@contrastmask_x101_3x_nonvoc2voc" not in steps and "train@contrastmask_x50_3x_nonvoc2voc" in steps


def test_the_headline_is_left_alone_if_the_free_run_failed(dvc):
    dvc.failing = {"train@current"}
    with pytest.raises(ExperimentError, match="current"):
        launch.launch(1, "generated")
    assert "headline" not in dvc.report[0] and dvc.report[0][-3:] == ("tables", "figures", "report")


def test_nothing_is_looked_into_that_was_not_trained(dvc):
    dvc.failing = {"train@contrastmask_r50_1x_nonvoc2voc"}
    with pytest.raises(ExperimentError, match="contrastmask_r50_1x_nonvoc2voc"):
        launch.launch(1, "generated")
    assert dvc.report[0] == ("headline", "tables", "figures", "report")


def test_nothing_is_trained_without_data(dvc):
    dvc.failing = {"download"}
    with pytest.raises(ExperimentError, match="nothing was trained"):
        launch.launch(1, "generated")
    assert len(dvc.calls) == 1


def test_trainings_at_a_time_have_a_gpu_each(dvc, monkeypatch):
    used, free = [], {"0", "1"}

    def on_gpu(*targets, gpu=None, **options):
        if gpu is not None:
            free.remove(gpu)
            used.append(gpu)
            threading.Event().wait(0.02)
            free.add(gpu)
        return 0

    monkeypatch.setattr(launch, "_dvc", on_gpu)
    monkeypatch.setattr(launch, "gpu_names", lambda: ["0", "1"])
    launch.launch(None, "generated")
    assert set(used) == {"0", "1"} and free == {"0", "1"}


def test_nothing_is_started_if_all_is_there(dvc, monkeypatch):
    monkeypatch.setattr(launch, "_up_to_date", lambda: True)
    launch.launch(2, "generated")
    assert dvc.calls == []


def test_jobs_must_be_positive(dvc):
    with pytest.raises(ExperimentError, match="--jobs 0"):
        launch.launch(0, "generated")
