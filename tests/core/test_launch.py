"""The order in which `stages.launch` asks DVC for things, and what it does about failures; DVC itself is pretended."""

import threading
from types import SimpleNamespace

import pytest

from pipeline import experiments, launch, launchers, machine_settings
from pipeline.errors import ExperimentError
from pipeline.launchers import local


class Dvc:
    """Stands in for `dvc repro`: remembers its calls, fails for chosen targets."""

    def __init__(self):
        self.calls, self.failing, self.lock, self.running, self.most = [], set(), threading.Lock(), 0, 0

    def __call__(self, *targets, single=False, force=False, echo=False, environment=None):
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
def dvc(new_home, monkeypatch):
    fake = Dvc()
    monkeypatch.setattr(launchers, "dvc", fake)
    monkeypatch.setattr(launchers, "changed_stages", lambda: {"download", "train@current"})
    monkeypatch.setattr(local.Local, "REFRESH_SECONDS", 0.01)
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


class Gpus:
    """Stands in for `dvc repro` on a machine with GPUs: nobody may be given one that is taken."""

    def __init__(self, monkeypatch, *names):
        self.names, self.free, self.given = names, set(names), []
        monkeypatch.setattr(launchers, "dvc", self)
        monkeypatch.setattr(local, "gpu_names", lambda: list(names))

    def __call__(self, *targets, environment=None, **options):
        if environment:
            taken = environment["CUDA_VISIBLE_DEVICES"].split(",")
            assert len(taken) == int(environment["CONTRASTMASK_PROCESSES"])
            for gpu in taken:
                self.free.remove(gpu)
            self.given.append((targets[0], len(taken)))
            threading.Event().wait(0.02)
            self.free.update(taken)
        return 0


@pytest.mark.parametrize("jobs", [None, 7])
def test_trainings_at_a_time_have_a_gpu_each_even_if_more_are_asked_for(dvc, monkeypatch, jobs):
    gpus = Gpus(monkeypatch, "0", "1")
    launch.launch(jobs, "generated")
    assert gpus.free == {"0", "1"} and len(gpus.given) == len(dvc_steps())


def dvc_steps():
    selection = experiments.selected()
    return [*selection["backbones"], *selection["runs"]]


@pytest.mark.parametrize("cores, gigabytes, jobs, workers", [(2, 64, 2, 1), (8, 64, 8, 1), (8, 7, 3, 1), (8, 1, 1, 4)])
def test_without_a_gpu_there_is_a_training_on_every_core_that_has_memory(
    dvc, monkeypatch, cores, gigabytes, jobs, workers
):
    monkeypatch.delenv("CONTRASTMASK_WORKERS", raising=False)
    monkeypatch.setattr(local, "gpu_names", list)
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(local.psutil, "virtual_memory", lambda: SimpleNamespace(available=gigabytes * 2**30))
    given = []
    monkeypatch.setattr(launchers, "dvc", lambda *_, environment, **__: given.append(environment))
    chosen = local.Local(machine_settings.load(), None, "generated", [launchers.Step("train", ("train@a",))])
    assert chosen.jobs == jobs
    chosen.start()
    assert chosen.futures["train"].result() is None
    assert given[0]["CONTRASTMASK_WORKERS"] == str(workers)


def test_a_training_of_several_processes_has_as_many_gpus(dvc, monkeypatch, tmp_path):
    (tmp_path / "machine.yaml").write_text("processes: 2\nruns: {current: {processes: 3}}\n")
    gpus = Gpus(monkeypatch, "0", "1", "2")
    launch.launch(None, "generated")
    assert dict(gpus.given)["train@current"] == 3 and dict(gpus.given)["pretrain@r50"] == 1
    assert dict(gpus.given)["train@cam_r50_1x_nonvoc2voc"] == 2 and len(gpus.free) == 3


@pytest.mark.parametrize(("line", "message"), [("processes: 4", "current has 4 processes, this machine 2 GPUs"),
                                               ("nodes: 2", "current has 2 nodes; more than 1 needs")])  # fmt: skip
def test_a_training_this_machine_is_too_small_for_is_refused(dvc, monkeypatch, tmp_path, line, message):
    (tmp_path / "machine.yaml").write_text(f"runs: {{current: {{{line}}}}}\n")
    Gpus(monkeypatch, "0", "1")
    with pytest.raises(ExperimentError, match=message):
        launch.launch(None, "generated")


def test_nothing_is_started_if_all_is_there(dvc, monkeypatch):
    monkeypatch.setattr(launchers, "changed_stages", set)
    launch.launch(2, "generated")
    assert dvc.calls == []


def test_data_that_is_there_is_not_touched(dvc, monkeypatch):
    monkeypatch.setattr(launchers, "changed_stages", lambda: {"train@current"})
    launch.launch(2, "generated")
    assert "download" not in [target for targets, *_ in dvc.calls for target in targets]


def test_jobs_must_be_positive(dvc):
    with pytest.raises(ExperimentError, match="--jobs 0"):
        launch.launch(0, "generated")
