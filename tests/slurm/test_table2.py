"""Table 2 through a real Slurm of two nodes, with the accidents of a cluster, beside the same without any of it.

The default form is small; with CONTRASTMASK_FULL set it is the embedded default as it is.
"""

import csv
import json
import os
import re
import subprocess
import time

import pytest

from pipeline.declaration import experiments
from tests.e2e.clone import FIGURES, TINY, Clone
from tests.slurm.cluster import Cluster, missing

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

FULL = bool(os.environ.get("CONTRASTMASK_FULL"))
SCHEDULE = ("profiles", "embedded", "schedules", "1x")
CHANGES = {} if FULL else TINY
ITERATIONS = (experiments.load().profiles["embedded"]["schedules"]["1x"] | CHANGES.get(SCHEDULE, {}))["iterations"]
PATIENCE = 3600 if FULL else 600  # seconds for any one thing to happen
CRASHED, REQUEUED, OVER_NODES, LIMITED = RUNS = (
    "mask_rcnn_r50_1x_nonvoc2voc",
    "cam_r50_1x_nonvoc2voc",
    "contrastmask_r50_1x_nonvoc2voc",
    "current",
)
HOLD = "tests/slurm/hold"
MACHINE = f"""\
launcher: slurm
runs: {{{OVER_NODES}: {{nodes: 2}}}}
slurm:
  poll_seconds: 2
  prologue:
    - export PYTHONPATH="$PWD/{HOLD}" CONTRASTMASK_TEST_HELD="{CRASHED} {REQUEUED} {LIMITED}"
"""


class Login:
    """A login node's shell in the working copy, and what can be seen from there."""

    def __init__(self, clone, cluster):
        self.clone, self.cluster = clone, cluster
        self.environment = clone.environment | {"SLURM_CONF": cluster.environment["SLURM_CONF"]}
        self.output = clone.folder / "scratch" / "login.log"

    def launch(self):
        self.output.parent.mkdir(exist_ok=True)
        with self.output.open("a") as file:
            return subprocess.Popen(
                ["python", "-m", "commands.launch"],
                cwd=self.clone.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def jobs(self):
        """{step: (job, state, node)} of what is queued or running."""
        lines = self.cluster.run("squeue", "--noheader", "--format=%j|%i|%T|%N").stdout.splitlines()
        return {name.split("/")[-1]: rest for name, *rest in (line.split("|") for line in lines)}

    def wait(self, what, ready):
        until = time.monotonic() + PATIENCE
        while not ready():
            told = f"{what}: not within {PATIENCE} s; {self.jobs()}\n{self.output.read_text()}"
            assert time.monotonic() < until, told
            time.sleep(0.5)

    def midway(self, runs):
        """One of some trainings that has left a state and waits to be interrupted; None if there is none."""
        return next((run for run in runs if (self.clone.folder / "scratch" / f"{run}.waits").exists()), None)

    def restarts(self, job):
        """How often Slurm has put a job back into the queue; it remembers jobs that have ended, too."""
        return int(re.search(r"Restarts=(\d+)", self.cluster.run("scontrol", "show", "job", job).stdout)[1])

    def log(self, run):
        return (self.clone.folder / "scratch" / "launch" / f"train_{run}.log").read_text()


def crash(login, job, node):
    login.cluster.kill_node(node)
    login.wait("the crash is noticed", lambda: login.restarts(job) == 1)
    login.cluster.start_node(node)


def requeue(login, job, node):
    login.cluster.run("scontrol", "requeue", job)


def limit(login, job, node):
    """As Slurm does shortly before the time limit."""
    login.cluster.run("scancel", "--batch", "--signal=USR1", job)


@pytest.fixture(scope="module")
def through_slurm(tmp_path_factory):
    """The clone after everything, and the Login."""
    clone = Clone(tmp_path_factory.mktemp("cluster"), CHANGES, None if FULL else FIGURES)
    own_knobs(clone)
    (clone.folder / "machine.yaml").write_text(MACHINE)
    with Cluster(tmp_path_factory.mktemp("slurm") / "etc") as cluster:
        login = Login(clone, cluster)
        shell = login.launch()
        try:
            login.wait("all jobs are submitted", lambda: shell.poll() is not None or "report" in login.jobs())
            submitted = {name: job for name, (job, *_) in login.jobs().items()}
            assert submitted.pop("pretrain@r50") and set(submitted) == {*RUNS, "report"}
            shell.kill()  # the login shell is lost
            shell.wait()

            # In the order in which they come: one that waits keeps its node from the others.
            accidents = {CRASHED: crash, REQUEUED: requeue, LIMITED: limit}
            while accidents:
                login.wait(f"one of {', '.join(accidents)} midway", lambda: login.midway(accidents))
                run = login.midway(accidents)
                job, state, node = login.jobs()[run]
                assert state == "RUNNING"
                accidents.pop(run)(login, job, node)
                if shell.poll() is not None:
                    shell = login.launch()  # another one watches on
            login.wait("the end", lambda: shell.poll() is not None)
            assert shell.returncode == 0, login.output.read_text()
            found = numbers(login)  # none was submitted twice; what had ended before anybody watched has no record left
            assert "report" in found and found.items() <= submitted.items()
            again = clone.run("env", f"SLURM_CONF={login.environment['SLURM_CONF']}", "python", "-m", "commands.launch")
            assert "up to date" in again.stderr
            yield clone, login
        finally:
            shell.kill()
            shell.wait()


def numbers(login):
    """{run or report: job} by what the jobs recorded."""
    folder = login.clone.folder / "scratch" / "launch"
    records = {name: folder / f"generated_{name}.job" for name in (*RUNS, "report")}
    return {name: record.read_text().split()[0] for name, record in records.items() if record.exists()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same on this machine alone, without accidents."""
    clone = Clone(tmp_path_factory.mktemp("alone"), CHANGES, None if FULL else FIGURES)
    own_knobs(clone)
    clone.run("python", "-m", "commands.launch", "--jobs", "2")
    return clone


def own_knobs(clone):
    """Turn a knob, so that `current` is a training of its own and not that of the pinned row."""
    params = clone.folder / "params.yaml"
    params.write_text(params.read_text().replace("sigma: 0.3", "sigma: 0.2"))


def rows(clone):
    with (clone.folder / "reports/generated/tables/table2.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("run", [CRASHED, REQUEUED, LIMITED])
def test_an_interrupted_job_goes_on_from_its_last_state(through_slurm, run):
    _, login = through_slurm
    assert login.log(run).count(": fresh, ") == 1 and ": resumed at step " in login.log(run)


def test_the_time_limit_sends_a_job_back_into_the_queue(through_slurm):
    _, login = through_slurm
    assert "the time limit is near: back into the queue" in login.log(LIMITED)


def test_one_training_takes_a_process_on_each_node(through_slurm):
    _, login = through_slurm
    assert "(2 processes" in login.log(OVER_NODES) and "on n[1-2]" in login.log(OVER_NODES)


def test_every_run_has_a_result_and_the_report_shows_it(through_slurm):
    clone, _ = through_slurm
    for run in RUNS:
        records = [json.loads(line) for line in (clone.folder / f"logs/generated/{run}/seed0.jsonl").open()]
        assert records[-1]["iter"] == ITERATIONS
    assert {row["state"] for row in rows(clone).values()} == {"done"}
    page = (clone.folder / "reports/generated/index.html").read_text()
    assert "table2" in page and "interrupted" not in page


def test_what_one_process_trained_is_what_it_is_without_slurm(through_slurm, alone):
    clone, _ = through_slurm
    for run in (CRASHED, REQUEUED, LIMITED):
        assert clone.json(f"results/generated/{run}.json") == alone.json(f"results/generated/{run}.json")
    for run in (CRASHED, REQUEUED):
        assert rows(clone)[run] == rows(alone)[run]
