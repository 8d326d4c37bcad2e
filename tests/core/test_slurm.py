"""Jobs as `commands.launch` hands them to Slurm, watches and finds them again; Slurm and DVC are pretended.

A real Slurm has its turn in tests/slurm.
"""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pipeline.artifacts import paths
from pipeline.declaration import experiments, schema
from pipeline.errors import ExperimentError
from pipeline.launching import launch, launchers, settings
from pipeline.launching.launchers import job, slurm

TOOL = """#!{python}
import json, os, pathlib, sys
path = pathlib.Path(os.environ["FAKE_SLURM"])
known = json.loads(path.read_text())
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
if known["broken"]:
    sys.exit(f"{{name}}: error: no answer")
if name == "sbatch":
    options = dict(word[2:].split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
    if options.get("partition") == "gone":
        sys.exit("sbatch: error: invalid partition specified: gone")
    rest = [argument for argument in arguments if not argument.startswith("-")]
    number = len(known["jobs"]) + 1
    environment = {{key: os.environ.get(key) for key in ("CONTRASTMASK_NODES", "CONTRASTMASK_PROCESSES")}}
    known["jobs"].append(dict(id=number, state="PENDING", options=options, rest=rest, environment=environment))
    print(number)
elif name == "squeue":
    print("999|RUNNING|None|of somebody else")
    for job in known["jobs"]:
        if job["state"]:
            reason = "None" if job["state"] == "RUNNING" else "Priority"
            print(job["id"], job["state"], reason, job["options"]["job-name"], sep="|")
elif name == "scancel":
    known["jobs"][int(arguments[0]) - 1]["state"] = ""
elif name == "scontrol":
    print(f"JobId={{arguments[-1]}} JobState=CANCELLED Reason=None")
path.write_text(json.dumps(known))
"""


class Cluster:
    """Programs named as Slurm's on PATH, and their memory: a list of jobs."""

    def __init__(self, folder):
        self.memory = folder / "jobs.json"
        self.memory.write_text(json.dumps({"jobs": [], "broken": False}))
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            (folder / name).write_text(TOOL.format(python=sys.executable))
            (folder / name).chmod(0o755)

    def __enter__(self):
        self.content = json.loads(self.memory.read_text())
        return self.content["jobs"]

    def __exit__(self, *error):
        self.memory.write_text(json.dumps(self.content))

    def jobs(self):
        """Live ones: {step: job}, the latest of a name."""
        with self as jobs:
            return {job["options"]["job-name"].split("/")[-1]: job for job in jobs if job["state"]}

    def set(self, name, state):
        number = self.jobs()[name]["id"]
        with self as jobs:
            jobs[number - 1]["state"] = state

    def end(self, name, status):
        """A job ends by itself: what job.sh leaves."""
        job = self.jobs()[name]
        with open(job["rest"][2], "w") as record:
            record.write(f"{job['id']} {status}\n")
        self.set(name, "")

    def end_all(self, failing=()):
        for name in self.jobs():
            self.end(name, 1 if name in failing else 0)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tools / "jobs.json"))
    return Cluster(tools)


class Dvc:
    """Stands in for DVC on the login node: what it was asked to make, and what it says has changed."""

    def __init__(self):
        self.made, self.changed = [], set()

    def __call__(self, *targets, **options):
        self.made.append(targets)
        return 0


@pytest.fixture
def dvc(new_home, monkeypatch):
    fake = Dvc()
    monkeypatch.setattr(launchers, "dvc", fake)
    monkeypatch.setattr(launchers, "changed_stages", lambda: fake.changed)
    monkeypatch.setattr(slurm.Slurm, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "GRACE_SECONDS", 0)
    experiments.select(["table2"])
    runs = experiments.selected()["runs"]
    made = {f"{stage}@{run}" for run in runs for stage in ("train", "evaluate")}
    fake.changed = {"split@boxes", "pretrain@r50"} | made
    (new_home / "machine.yaml").write_text("launcher: slurm\n")
    return fake


@pytest.fixture
def after_each_poll(monkeypatch):
    """A function that is called instead of sleeping, with the number of the call."""
    calls = []

    def pretend(action):
        def sleep(seconds):
            calls.append(seconds)
            action(len(calls))

        monkeypatch.setattr(launch, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
        load = settings.load
        at_once = {"poll_seconds": 0}
        monkeypatch.setattr(
            settings,
            "load",
            lambda: (read := load()).model_copy(update={"slurm": read.slurm.model_copy(update=at_once)}),
        )

    return pretend


RUNS = ("mask_rcnn_r50_1x_nonvoc2voc", "cam_r50_1x_nonvoc2voc", "contrastmask_r50_1x_nonvoc2voc", "current")


def machine_yaml(tmp_path, text):
    (tmp_path / "machine.yaml").write_text("launcher: slurm\n" + text)


def leave(number):
    raise KeyboardInterrupt


def test_a_job_for_each_step_behind_the_one_it_needs_and_the_report_behind_all(cluster, dvc, tmp_path, after_each_poll):
    options = "{partition: gpu, time: '24:00:00', gres: gpu:a100, extra: [--qos=long]}"
    machine_yaml(tmp_path, f"processes: 4\nruns: {{current: {{nodes: 2}}}}\nslurm: {options}\n")
    after_each_poll(leave)
    with pytest.raises(ExperimentError, match="the jobs go on"):
        launch.launch()
    assert dvc.made == [("download", "split")]
    jobs = cluster.jobs()
    assert set(jobs) == {"pretrain@r50", *RUNS, "report"}
    weights = jobs["pretrain@r50"]["id"]
    for name in RUNS:
        assert jobs[name]["options"]["dependency"] == f"afterok:{weights}"
        assert jobs[name]["rest"][5:] == [
            "pipeline.launching.launchers.job",
            "generated",
            f"train@{name}",
            f"evaluate@{name}",
        ]
    ids = [str(job["id"]) for name, job in jobs.items() if name != "report"]
    assert jobs["report"]["options"]["dependency"] == "afterany:" + ":".join(ids)
    options = jobs["current"]["options"]
    assert (options["nodes"], options["ntasks-per-node"], options["gres"]) == ("2", "1", "gpu:a100:4")
    assert (options["partition"], options["time"], options["qos"]) == ("gpu", "24:00:00", "long")
    assert options["signal"] == "B:USR1@120" and options["open-mode"] == "append"
    assert jobs["current"]["environment"] == {"CONTRASTMASK_NODES": "2", "CONTRASTMASK_PROCESSES": "4"}
    assert jobs["pretrain@r50"]["environment"] == {"CONTRASTMASK_NODES": "1", "CONTRASTMASK_PROCESSES": "1"}
    assert jobs["pretrain@r50"]["options"]["gres"] == "gpu:a100:1"
    assert paths.ROOT.name in options["job-name"] and "/generated/" in options["job-name"]


def test_labels_are_a_job_between_two_trainings(cluster, dvc, tmp_path, after_each_poll, monkeypatch):
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    paths.PARAMS.write_text("dataset: scenes\n")
    runs = experiments.select(["simformer3"])["runs"]
    dvc.changed = {f"train@{name}" for name in runs} | {"pretrain@simformer_r50", "label@simformer_s5"}
    after_each_poll(leave)
    with pytest.raises(ExperimentError, match="the jobs go on"):
        launch.launch()
    jobs = cluster.jobs()
    assert dvc.made[-1][-1] == "pretrain@simformer_r50", "random weights take no job"
    labels, source = jobs["label@simformer_s5"], jobs["simformer_s5"]
    assert labels["options"]["dependency"] == f"afterok:{source['id']}" and labels["rest"][-1] == "label@simformer_s5"
    assert jobs["simformer_retrained_s5"]["options"]["dependency"] == f"afterok:{labels['id']}"
    dvc.changed -= {"train@simformer_s6"}  # its labels are made anew all the same if DVC says so
    assert "dependency" not in source["options"]


def test_launching_again_adopts_what_is_queued_and_submits_what_failed(cluster, dvc, after_each_poll):
    after_each_poll(leave)
    with pytest.raises(ExperimentError, match="the jobs go on"):
        launch.launch()
    first = cluster.jobs()
    dvc.changed -= {"split@boxes"}
    with pytest.raises(ExperimentError, match="the jobs go on"):
        launch.launch()
    assert cluster.jobs() == first and len(dvc.made) == 1
    cluster.end("pretrain@r50", 0)
    cluster.end(RUNS[0], 0)
    cluster.end(RUNS[1], 1)
    dvc.changed -= {"pretrain@r50", f"train@{RUNS[0]}", f"evaluate@{RUNS[0]}"}
    with pytest.raises(ExperimentError, match="the jobs go on"):
        launch.launch()
    jobs = cluster.jobs()
    assert set(jobs) == {*RUNS[1:], "report"} and "dependency" not in jobs[RUNS[1]]["options"]
    assert [jobs[name]["id"] for name in RUNS[2:]] == [first[name]["id"] for name in RUNS[2:]]
    assert jobs[RUNS[1]]["id"] not in [job["id"] for job in first.values()]
    behind = {int(number) for number in jobs["report"]["options"]["dependency"].split(":")[1:]}
    assert behind == {jobs[name]["id"] for name in RUNS[1:]}
    with cluster as all_jobs:
        assert len(all_jobs) == len(first) + 2  # and the first report is cancelled


def test_the_watch_ends_with_the_report_and_names_what_failed(cluster, dvc, after_each_poll):
    after_each_poll(lambda number: cluster.end_all(failing=["current"]))
    with pytest.raises(ExperimentError, match=r"1 of 4 runs have no result: current \(train@current failed, see"):
        launch.launch()


def test_all_well(cluster, dvc, after_each_poll):
    after_each_poll(lambda number: cluster.end_all())
    launch.launch()


def test_a_requeued_job_is_waited_for_and_a_vanished_one_is_not(cluster, dvc, after_each_poll, monkeypatch):
    seen = []
    describe = launch._describe

    def spy(dataset, name, state):
        seen.append((name, describe(dataset, name, state)[0]))
        return describe(dataset, name, state)

    def act(number):
        if number == 1:
            cluster.set("pretrain@r50", "RUNNING")
        elif number == 2:
            cluster.set("pretrain@r50", "PENDING")
        elif number == 3:
            cluster.set("current", "")  # scancel
        else:
            cluster.end_all()

    monkeypatch.setattr(launch, "_describe", spy)
    after_each_poll(act)
    with pytest.raises(ExperimentError, match=r"current \(job \d+ ended as CANCELLED, see .*train_current.log\)"):
        launch.launch()
    weights = [words for name, words in seen if name == "pretrain@r50"]
    assert weights[:3] == ["queued (Priority)", "running", "queued (Priority)"] and weights[-1] == "done"


def test_runs_without_weights_are_named_by_what_they_lack(cluster, dvc, after_each_poll):
    def act(number):
        cluster.end("pretrain@r50", 1) if number == 1 else None
        for name in RUNS:
            cluster.set(name, "") if name in cluster.jobs() else None  # --kill-on-invalid-dep
        cluster.end_all()

    after_each_poll(act)
    with pytest.raises(ExperimentError, match=r"4 of 4 runs have no result: .*current \(pretrain@r50 failed, see"):
        launch.launch()


def test_no_more_jobs_at_a_time_than_asked_for(cluster, dvc, after_each_poll):
    after_each_poll(leave)
    with pytest.raises(ExperimentError, match="the jobs go on"):
        launch.launch(2)
    jobs = cluster.jobs()
    order = sorted({*jobs} - {"report"}, key=lambda name: jobs[name]["id"])
    assert order[0] == "pretrain@r50" and set(order[1:]) == set(RUNS)
    for place, name in enumerate(order[2:], 2):
        assert f"afterany:{jobs[order[place - 2]]['id']}" in jobs[name]["options"]["dependency"].split(",")


def test_weights_that_take_no_training_are_made_here(cluster, dvc, after_each_poll, monkeypatch):
    dvc.changed -= {"pretrain@r50"}  # once it is made here
    after_each_poll(leave)
    monkeypatch.setattr(experiments, "chosen_dataset", lambda: "coco2017")
    with pytest.raises(ExperimentError, match="the jobs go on"):
        launch.launch()
    assert dvc.made == [("download", "split", "pretrain@r50")]
    assert "pretrain@r50" not in cluster.jobs()


def test_a_refused_job_is_one_line(cluster, dvc, tmp_path):
    machine_yaml(tmp_path, "slurm: {partition: gone}\n")
    with pytest.raises(ExperimentError, match="^sbatch: .*invalid partition specified: gone$"):
        launch.launch()


def test_a_controller_that_does_not_answer_is_asked_again(cluster, dvc, after_each_poll):
    def act(number):
        with cluster:
            cluster.content["broken"] = number == 1
        if number == 2:
            cluster.end_all()

    after_each_poll(act)
    launch.launch()


def test_without_slurm_it_says_so(dvc, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExperimentError, match="sbatch is not on PATH"):
        launch.launch()


def test_the_report_job_says_what_has_no_result(dvc, monkeypatch):
    dvc.changed = {"train@current", "evaluate@current", "tables@table2"}
    launch.report()
    stages = [stage for made in dvc.made for stage in made]
    assert "headline@current" not in stages and "tables@table2" in stages and dvc.made[-1] == ("report",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "launchr: slurm",
            "machine.yaml: launchr: unknown key; valid: launcher, jobs, nodes, processes, runs, slurm",
        ),
        ("launcher: pbs", "machine.yaml: launcher: is 'pbs'; valid: local, slurm"),
        ("jobs: 0", "jobs: is 0; valid: at least 1"),
        ("processes: true", "processes: is true; valid: a whole number"),
        ("slurm: {partitoin: gpu}", "did you mean 'partition'?"),
        ("slurm: {extra: --qos=long}", "slurm.extra: expected a list, found str"),
        ("slurm: gpu", "slurm: expected a mapping, found str"),
        ("runs: {curent: {nodes: 2}}", "did you mean 'current'?"),
        (
            "runs: {current: {node: 2}}",
            "runs.current.node: unknown key; valid: nodes, processes; did you mean 'nodes'?",
        ),
        ("runs: {current: 2}", "runs.current: expected a mapping, found int"),
    ],
)
def test_a_mistake_in_machine_yaml_is_one_line(cluster, dvc, tmp_path, text, message):
    (tmp_path / "machine.yaml").write_text(text + "\n")
    with pytest.raises(ExperimentError) as raised:
        launch.launch()
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_the_example_is_valid_and_ignored_by_git():
    known = settings.load(paths.ROOT / "machine.example.yaml")
    assert known.launcher == "slurm" and known.slurm.model_fields_set == set(schema.Slurm.model_fields)
    asked = subprocess.run(["git", "check-ignore", "-q", "machine.yaml"], cwd=paths.ROOT, check=False)
    assert asked.returncode in (0, 128)  # 128: no repository


@pytest.mark.parametrize("in_a_job", [False, True])
def test_jobs_ignore_whom_dvc_takes_for_a_user_of_their_files(tmp_path, monkeypatch, in_a_job):
    """An entry of another node, whose process number somebody has here."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    monkeypatch.setenv("SLURM_JOB_ID", "1") if in_a_job else monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: echo 1 > a, outs: [a]}}\n")
    before = json.dumps({"write": {str(tmp_path / "a"): {"pid": os.getpid(), "cmd": "of a job"}}, "read": {}})
    (tmp_path / ".dvc" / "tmp" / "rwlock").write_text(before)
    if in_a_job:
        assert launchers.changed_stages() == {"a"}
        assert launchers.dvc("a", echo=True) == 0 and (tmp_path / "a").read_text() == "1\n"
        assert (tmp_path / ".dvc" / "tmp" / "rwlock").read_text() == before
    else:
        with pytest.raises(ExperimentError, match="^`dvc status` failed: .*a' is busy; wait for the launch"):
            launchers.changed_stages()


def test_a_job_of_another_dataset_stops(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["job", "generated_study1", "train@current"])
    with pytest.raises(SystemExit):
        job.main()
