"""The order in which `commands.launch` asks DVC for things, and what it does about failures; DVC is pretended."""

import itertools
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import row_cost
from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.launching import costs, launch, launchers, settings
from pipeline.launching.launchers import local


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
        """The stages behind the last training, and whether they were forced."""
        last = max(i for i, (targets, *_) in enumerate(self.calls) if targets[0].startswith(("train", "pretrain")))
        calls = self.calls[last + 1 :]
        assert all(single for _, single, _ in calls) and calls[-1][0] == ("report",)
        return {target for targets, *_ in calls for target in targets}, any(force for *_, force in calls)


def shown(selection):
    """The stages of the report that need no run."""
    return {
        *(f"tables@{name}" for name in selection["tables"]),
        *(f"figures@{name}" for name in selection["figures"]),
        "report",
    }


@pytest.fixture
def dvc(new_home, monkeypatch):
    fake = Dvc()
    monkeypatch.setattr(launchers, "dvc", fake)
    monkeypatch.setattr(launchers, "changed_stages", lambda: {"download", "train@current"})
    monkeypatch.setattr(local.Local, "REFRESH_SECONDS", 0.01)
    experiments.select(["table2", "table1"])
    return fake


def test_every_run_once_after_its_weights(dvc):
    launch.launch(2)
    assert dvc.calls[0] == (("download", "split", "priors"), False, False)
    selection = experiments.selected()
    steps = [targets for targets, *_ in dvc.calls if targets[0].startswith(("pretrain", "train"))]
    assert sorted(steps) == sorted(
        [(f"pretrain@{name}",) for name in selection["weights"]]
        + [(f"train@{name}", f"evaluate@{name}") for name in selection["runs"]]
    )
    for name, run in selection["runs"].items():
        assert dvc.position(f"pretrain@{run['weights']}") < dvc.position(f"train@{name}")
    assert dvc.most == 2
    priors = {f"look_inside@{name}" for name in selection["look_inside"]}
    assert priors and dvc.report == ({"headline@current", *priors, *shown(selection)}, False)


def targets():
    return launch._targets(experiments.selected(), "generated", settings.load())


def test_what_takes_longest_is_started_first(dvc):
    runs, steps = experiments.selected()["runs"], {"1x": 12, "3x": 36}
    lengths = [
        (steps[runs[each.name]["schedule"]], runs[each.name]["method"] == "contrastmask")
        for each in targets()
        if each.after and runs[each.name]["method"] in ("mask_rcnn", "contrastmask")
    ]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 3


class Slow:
    """Stands in for `dvc repro`: chosen stages end when they are let."""

    def __init__(self, monkeypatch, *held):
        self.held = {stage: threading.Event() for stage in held}
        self.begun, self.over = [], []
        monkeypatch.setattr(launchers, "dvc", self)

    def __call__(self, *stages, **_):
        self.begun.append(stages[0])
        for stage in stages:
            if stage in self.held:
                assert self.held[stage].wait(timeout=60)
        self.over.append(stages[0])
        return 0


def test_what_waits_for_weights_keeps_no_place_from_what_can_be_made(dvc, monkeypatch):
    slow = Slow(monkeypatch, "pretrain@x101")
    chosen = local.Local(settings.load(), 2, "generated", targets())
    chosen.start()
    others = {target.name for target in chosen.targets if "pretrain@x101" not in target.after} - {"pretrain@x101"}
    for name in others:
        chosen.futures[name].result(timeout=60)
    assert not any("x101" in stage for stage in slow.over)
    assert chosen.states()["contrastmask_x101_3x_nonvoc2voc"].state == "queued"
    slow.held["pretrain@x101"].set()
    assert all(future.result(timeout=60) is None for future in chosen.futures.values())


def test_a_run_that_trains_the_same_as_another_waits_without_a_place(dvc, monkeypatch):
    twin = "contrastmask_r50_1x_nonvoc2voc"
    assert {each.name: each.twin for each in targets() if each.twin} == {"current": twin}
    slow = Slow(monkeypatch, f"train@{twin}")
    chosen = local.Local(settings.load(), 2, "generated", targets())
    chosen.start()
    for name in set(chosen.futures) - {"current", twin}:
        chosen.futures[name].result(timeout=60)
    assert "train@current" not in slow.begun
    slow.held[f"train@{twin}"].set()
    assert chosen.futures["current"].result(timeout=60) is None


def test_stages_of_the_report_are_made_side_by_side_and_the_page_behind_them(dvc, monkeypatch):
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _: {0, 1})
    selection = experiments.selected()
    figures = [f"figures@{name}" for name in selection["figures"]]
    slow = Slow(monkeypatch, figures[0])
    made = threading.Thread(target=launch._report, args=({}, selection))
    made.start()
    while figures[1] not in slow.over:
        time.sleep(0.001)
    assert "report" not in slow.begun
    slow.held[figures[0]].set()
    made.join(timeout=60)
    assert slow.over[-1] == "report"


@pytest.mark.parametrize("status", [1, -9])
def test_a_command_of_the_report_that_fails_or_is_killed_leaves_it_incomplete(dvc, monkeypatch, status):
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(launchers, "dvc", lambda *stages, **_: status if "tables@table2" in stages else 0)
    assert launch._report({}, experiments.selected()) == status
    assert launch._incomplete().exists()


@pytest.fixture
def scenes(dvc, tmp_path, monkeypatch):
    """Table 3 of the second paper, on drawn scenes."""
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    paths.PARAMS.write_text("dataset: scenes\n")
    experiments.select(["simformer3"])


def test_images_are_labelled_between_two_trainings(dvc, scenes):
    launch.launch(3)
    rows = {"simformer": "retrained", "retab": "retab"}
    for (method, row), k in itertools.product(rows.items(), range(5, 10)):
        source = f"{method}_s{k}"
        stages = (f"train@{source}", f"label@{source}", f"train@simformer_{row}_s{k}")
        places = [dvc.position(stage) for stage in stages]
        assert places == sorted(places) and dvc.calls[places[1]][0] == stages[1:2]


def test_what_trains_on_labels_that_failed_is_not_begun(dvc, scenes):
    dvc.failing.add("label@simformer_s6")
    with pytest.raises(
        ExperimentError, match=r"1 of 25 runs .*simformer_retrained_s6 \(label@simformer_s6 failed, see"
    ):
        launch.launch(3)
    begun = {targets[0] for targets, *_ in dvc.calls}
    assert "train@simformer_retrained_s6" not in begun and "train@simformer_retrained_s7" in begun


def test_a_run_with_a_dataset_of_its_own_is_made_after_its_data_and_weights(dvc, monkeypatch):
    own = "contrastmask_r50_1x_nonvoc2voc"
    declared = experiments.load()
    declared.runs[own] = replace(declared.runs[own], dataset="generated_study1")
    monkeypatch.setattr(experiments, "load", lambda: declared)
    experiments.select(["table2"])
    launch.launch(2)
    assert dvc.calls[0] == (("download", "split", "download_elsewhere", "split_elsewhere"), False, False)
    train = f"train_elsewhere@{own}"
    assert dvc.calls[dvc.position(train)][0] == (train, f"evaluate_elsewhere@{own}")
    assert dvc.position("pretrain_elsewhere@generated_study1_r50") < dvc.position(train)
    assert dvc.report[0] >= {"headline@current", f"look_inside_elsewhere@{own}"}


def test_a_failed_run_stops_no_other_and_is_named_after_the_report(dvc):
    dvc.failing = {"train@cam_r50_1x_nonvoc2voc"}
    message = r"1 of \d+ runs have no result: cam_r50_1x_nonvoc2voc \(train@cam.* failed, see"
    with pytest.raises(ExperimentError, match=message):
        launch.launch(2)
    assert dvc.position("train@current") and dvc.report[1] is True
    dvc.failing = set()
    launch.launch(2)
    assert dvc.report[1] is True  # what the report said of the failure has to go
    launch.launch(2)
    assert dvc.report[1] is False


def test_runs_of_a_backbone_without_weights_are_not_tried(dvc):
    dvc.failing = {"pretrain@x101"}
    with pytest.raises(ExperimentError, match=r"contrastmask_x101_3x_nonvoc2voc \(pretrain@x101 failed, see"):
        launch.launch(1)
    steps = [target for targets, *_ in dvc.calls for target in targets]
    assert "train@contrastmask_x101_3x_nonvoc2voc" not in steps and "train@contrastmask_x50_3x_nonvoc2voc" in steps


def test_the_headline_is_left_alone_if_the_free_run_failed(dvc):
    dvc.failing = {"train@current"}
    with pytest.raises(ExperimentError, match="current"):
        launch.launch(1)
    assert "headline@current" not in dvc.report[0] and dvc.report[0] >= shown(experiments.selected())


def test_nothing_is_looked_into_that_was_not_trained(dvc):
    dvc.failing = {"train@contrastmask_r50_1x_nonvoc2voc"}
    with pytest.raises(ExperimentError, match="contrastmask_r50_1x_nonvoc2voc"):
        launch.launch(1)
    looked_into = {f"look_inside@{name}" for name in experiments.selected()["look_inside"]}
    assert looked_into - dvc.report[0] == {"look_inside@contrastmask_r50_1x_nonvoc2voc"}
    assert dvc.report[0] - looked_into == {"headline@current", *shown(experiments.selected())}


def test_nothing_is_trained_without_data(dvc):
    dvc.failing = {"download"}
    with pytest.raises(ExperimentError, match="nothing was trained"):
        launch.launch(1)
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
    launch.launch(jobs)
    assert gpus.free == {"0", "1"} and len(gpus.given) == len(dvc_steps())


def dvc_steps():
    selection = experiments.selected()
    return [*selection["weights"], *selection["runs"]]


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
    chosen = local.Local(settings.load(), None, "generated", [launchers.Target("train", ("train@a",))])
    assert chosen.jobs == jobs
    chosen.start()
    assert chosen.futures["train"].result() is None
    assert given[0]["CONTRASTMASK_WORKERS"] == str(workers)


def test_a_training_of_several_processes_has_as_many_gpus(dvc, monkeypatch, tmp_path):
    (tmp_path / "machine.yaml").write_text("processes: 2\nruns: {current: {processes: 3}}\n")
    gpus = Gpus(monkeypatch, "0", "1", "2")
    launch.launch()
    assert dict(gpus.given)["train@current"] == 3 and dict(gpus.given)["pretrain@r50"] == 1
    assert dict(gpus.given)["train@cam_r50_1x_nonvoc2voc"] == 2 and len(gpus.free) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("processes: 4", "current has 4 processes, this machine 2 GPUs"),
        ("nodes: 2", "current has 2 nodes; more than 1 needs"),
    ],
)
def test_a_training_this_machine_is_too_small_for_is_refused(dvc, monkeypatch, tmp_path, line, message):
    (tmp_path / "machine.yaml").write_text(f"runs: {{current: {{{line}}}}}\n")
    Gpus(monkeypatch, "0", "1")
    with pytest.raises(ExperimentError, match=message):
        launch.launch()


def test_nothing_is_started_if_all_is_there(dvc, monkeypatch):
    monkeypatch.setattr(launchers, "changed_stages", set)
    launch.launch(2)
    assert dvc.calls == []


def test_data_that_is_there_is_not_touched(dvc, monkeypatch):
    monkeypatch.setattr(launchers, "changed_stages", lambda: {"train@current"})
    launch.launch(2)
    assert "download" not in [target for targets, *_ in dvc.calls for target in targets]


def test_jobs_must_be_positive(dvc):
    with pytest.raises(ExperimentError, match="--jobs 0"):
        launch.launch(0)


STAGE = """
import signal, sys, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
print("begun", flush=True)
while not got:
    time.sleep(0.01)
time.sleep(0.5)  # the state is saved
print("told", len(got), flush=True)
"""
DVC = f"""
import subprocess, sys
code = subprocess.run([sys.executable, "-c", {STAGE!r}]).returncode
print("dvc notes", code, flush=True)
"""


def begun(log):
    while "begun" not in (log.read_text() if log.exists() else ""):
        time.sleep(0.01)


def test_ctrl_c_lets_a_stage_save_its_state_once_and_starts_nothing_more(dvc, monkeypatch, tmp_path):
    log, show = tmp_path / "log", launch._show

    def run(*targets, **_):
        with log.open("a") as file:
            return launchers.children.run([sys.executable, "-c", DVC], stdout=file)

    def interrupted(*_):
        begun(log)
        raise KeyboardInterrupt

    monkeypatch.setattr(launchers, "dvc", run)
    monkeypatch.setattr(launchers, "changed_stages", lambda: {"train@current"})
    monkeypatch.setattr(launch, "_show", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch.launch(1)
    assert log.read_text() == "begun\ntold 1\ndvc notes 0\n"
    monkeypatch.setattr(launch, "_show", show)
    monkeypatch.setattr(launchers, "dvc", dvc)
    launch.launch(1)  # the next one is not hindered


def test_what_a_launch_runs_ends_with_it(tmp_path):
    """SIGKILL of the launch: `dvc` is told; its stage is tied to it by pipeline.cli."""
    code = (
        f"import sys\nfrom pipeline.processes import Children\n"
        f"Children().run([sys.executable, '-c', 'import time; print(\"begun\", flush=True); time.sleep(60)'],"
        f" stdout=open({str(tmp_path / 'log')!r}, 'w'))"
    )
    launched = subprocess.Popen([sys.executable, "-c", code], cwd=paths.ROOT)
    begun(tmp_path / "log")
    [child] = psutil.Process(launched.pid).children()
    launched.kill()
    launched.wait()
    child.wait(timeout=30)


def test_a_second_launch_is_refused_and_says_which_process_runs(dvc, monkeypatch):
    with launch._alone():
        with pytest.raises(ExperimentError, match=rf"already \(process {os.getpid()} on .*`kill {os.getpid()}`"):
            launch.launch(1)
    assert dvc.calls == []
    launch.launch(1)
    assert dvc.calls


def git(folder, *arguments, check=True):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=check, capture_output=True, text=True)


@pytest.fixture
def conflict(tmp_path, monkeypatch):
    """A working copy in the middle of a merge that changed dvc.lock on both sides."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    git(tmp_path, "init", "-q", "-b", "main")
    for branch, content in (("main", "schema: '2.0'\n"), ("theirs", "schema: '2.1'\n"), ("ours", "schema: '2.2'\n")):
        if branch != "main":
            git(tmp_path, "checkout", "-q", "-b", branch, "main")
        (tmp_path / "dvc.lock").write_text(content)
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", branch)
    assert git(tmp_path, "merge", "theirs", check=False).returncode
    return tmp_path


def test_merge_conflicts_in_dvc_lock_are_named_and_the_remedy_works(conflict):
    with pytest.raises(ExperimentError, match="^dvc.lock: git left merge conflicts in it; run `git checkout --ours"):
        launchers._require_lock_file()
    git(conflict, "checkout", "--ours", "dvc.lock")
    git(conflict, "add", "dvc.lock")
    launchers._require_lock_file()
    assert (conflict / "dvc.lock").read_text() == "schema: '2.2'\n"


def test_committed_conflicts_in_dvc_lock_have_a_remedy_of_their_own(conflict):
    git(conflict, "commit", "-q", "-a", "-m", "with markers")
    with pytest.raises(ExperimentError, match="merge conflicts in it; run `rm dvc.lock`"):
        launchers._require_lock_file()
    (conflict / "dvc.lock").unlink()
    launchers._require_lock_file()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a: [", b"- 1\n", b"\0" * 100])
def test_a_damaged_dvc_lock_is_one_line(content, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "dvc.lock").write_bytes(content)
    with pytest.raises(ExperimentError, match=r"^dvc.lock: damaged \(.*\); run `rm dvc.lock`") as error:
        launchers.changed_stages()
    assert "\n" not in str(error.value)


def test_recipes_are_made_before_it_is_asked_what_changed(dvc, monkeypatch, caplog):
    """A comment changes the recipes' input and, once they are made, nothing."""
    monkeypatch.setattr(launchers, "changed_stages", lambda: set() if dvc.calls else {"recipes"})
    with caplog.at_level("INFO", "pipeline"):
        launch.launch(2)
    assert dvc.calls == [(("recipes",), True, False)] and "up to date" in caplog.text


def test_recipes_that_cannot_be_made_start_nothing(dvc, monkeypatch):
    monkeypatch.setattr(launchers, "changed_stages", lambda: {"recipes"})
    dvc.failing = {"recipes"}
    with pytest.raises(ExperimentError, match="recipes could not be made"):
        launch.launch(2)
    assert len(dvc.calls) == 1


def test_nothing_is_made_where_no_table_has_a_run(dvc, monkeypatch):
    """As on a dataset of a label set with other directions."""
    labels = replace(label_set("coco"), directions={"mine": {"base": "voc", "novel": "nonvoc"}})
    monkeypatch.setattr(experiments, "label_set", lambda name: labels)
    experiments.select(["table2"])
    with pytest.raises(ExperimentError, match=r"no run of table2 has a direction of dataset 'generated' \(mine\); .*"):
        launch.launch(1)
    assert not dvc.calls


def test_what_targets_cost_is_noted_over_all_attempts(new_home, monkeypatch):
    work = "import time\nwhile time.process_time() < 0.2: pass"
    monkeypatch.setattr(launchers, "command", lambda *_: [sys.executable, "-c", work])
    threads = [threading.Thread(target=launchers.dvc, args=(f"train@{name}", "evaluate")) for name in ("a", "b", "a")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    noted = costs.read()
    assert noted.keys() == {"train@a", "train@b"}
    assert 0.2 <= noted["train@b"] < 5 and 0.4 <= noted["train@a"] < 10


def test_the_cost_of_a_table_counts_a_run_once(new_home, monkeypatch, capsys):
    for stage, seconds in (("pretrain@r50", 60.0), ("train@mask_rcnn_r50_1x_nonvoc2voc", 120.0)):
        costs.add(stage, seconds)
    monkeypatch.setattr("sys.argv", ["row_cost", "table1", "table2"])
    row_cost.main()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    costed = [(line[0], line[-1]) for line in lines[2:]]
    assert costed[:2] == [("Mask R-CNN (baseline)", "2.0"), ("Baseline", "2.0")]
    assert costed[2:] == [("initial weights", "1.0"), ("together", "3.0")]
    for stage in ("train@retab_s5", "label@retab_s5"):  # a run that no row shows
        costs.add(stage, 60.0)
    row_cost.main()
    last = [line.split("|")[-2].strip() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert last == ["1.0", "1.0", "1.0", "5.0"]
    monkeypatch.setattr("sys.argv", ["row_cost", "table7"])
    with pytest.raises(SystemExit):
        row_cost.main()
    assert "error: nothing of these tables was made" in capsys.readouterr().err
