"""The whole DVC pipeline in a temporary clone, on a generated set of a few images and trainings of a few iterations."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.clone import Clone
from tests.links import broken

pytestmark = pytest.mark.slow

RUNS = ("mask_rcnn_r50_1x_nonvoc2voc", "cam_r50_1x_nonvoc2voc", "contrastmask_r50_1x_nonvoc2voc", "current")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("clone"))
    clone.run("dvc", "repro")
    return clone


def status(clone):
    return clone.run("git", "status", "--porcelain").stdout


def test_repro_leaves_git_status_clean(clone):
    assert status(clone) == ""


def test_links_of_the_report_lead_to_what_was_built(clone):
    page = clone.folder / "reports/generated/README.md"
    assert "(figures/loss_curves.svg)" in page.read_text() and broken(page, lambda path: path.exists()) == []


def test_plots_are_shown_without_a_network_and_leave_nothing_behind(clone):
    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots/index.html").read_text()
    assert page.count("<img") == 3 and "http" not in page.replace("http://www.w3.org", "")
    assert status(clone) == ""


def test_repro_ends_in_table_2(clone):
    with (clone.folder / "reports/generated/tables/table2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == list(RUNS[:3])
    for row in rows:
        measured = clone.json(f"results/generated/{row['run']}.json")["per_seed"][0]["scores"]
        value = {(one["group"], one["kind"], one["metric"]): one["value"] for one in measured}["novel", "segm", "mAP"]
        assert float(row["mAP"]) == pytest.approx(value)
        assert row["dataset"] == "generated" and row["direction"] == "nonvoc2voc"
    assert [row["mAP_published"] for row in rows] == ["23.9", "32.3", "35.1"]
    for name in (
        "tables/table2.md",
        "tables/table2.tex",
        "figures/loss_curves.png",
        "figures/qualitative.png",
        "README.md",
    ):
        assert (clone.folder / "reports/generated" / name).stat().st_size > 100


def test_logs_and_config_stand_beside_the_checkpoint(clone):
    for run in RUNS:
        folder = clone.folder / "runs/generated" / run / "seed0"
        assert (folder / "checkpoint.pth").exists() and "maskrcnn" in (folder / "config.py").read_text().lower()
        records = [json.loads(line) for line in (clone.folder / f"logs/generated/{run}/seed0.jsonl").open()]
        assert [record["iter"] for record in records] == [2, 4, 6]
        assert {"loss", "loss_mask", "loss_cls", "lr"} <= set(records[0])
    assert any("contrast" in key for key in records[0])


def test_a_second_repro_does_nothing(clone):
    clone.commit()
    assert "up to date" in clone.run("dvc", "repro").stdout
    assert "up to date" in clone.run("dvc", "status").stdout
    assert status(clone) == ""


def test_an_experiment_retrains_what_follows_the_knobs(clone):
    """Runs in a throw-away copy, so images and the MLflow store must be found in the cloned repository."""
    clone.commit()
    output = clone.run("dvc", "exp", "run", "--temp", "-n", "lower-sigma", "-S", "sigma=0.2").stdout
    for run in RUNS[:3]:
        assert f"Running stage 'train@{run}'" not in output
    assert "Running stage 'train@current'" in output and "Running stage 'evaluate@current'" in output
    shown = clone.run("dvc", "exp", "show", "--csv").stdout
    rows = {row["Experiment"] or row["rev"]: row for row in csv.DictReader(shown.splitlines())}
    assert rows["lower-sigma"]["params.yaml:sigma"] == "0.2" and rows["main"]["params.yaml:sigma"] == "0.3"
    assert rows["lower-sigma"]["novel_mask_mAP"] != ""
    compared = clone.run("python", "-m", "commands.compare").stdout
    for row in (r"\| workspace +\| 0\.3 +\| \d+\.\d ", r"\| lower-sigma +\| 0\.2 +\| \d+\.\d "):
        assert re.search(row, compared)
    assert status(clone) == "" and "stages:" in (clone.folder / "dvc.lock").read_text()

    found = clone.run(
        "python",
        "-c",
        (
            "import json, mlflow; from pipeline.tracking import store; client, experiment = store.connect('generated');"
            "runs = client.search_runs([experiment], \"tags.run = 'current'\");"
            "print(json.dumps([[r.info.status, r.data.params['sigma'], r.data.tags['dvc_experiment'],"
            " 'novel/mask/AP' in r.data.metrics,"
            " len(client.get_metric_history(r.info.run_id, 'train/loss'))] for r in runs]))"
        ),
    )
    found = sorted(json.loads(found.stdout.splitlines()[-1]), key=lambda run: run[1])
    assert found == [["FINISHED", "0.2", "lower-sigma", True, 3], ["FINISHED", "0.3", "", True, 3]]


@pytest.mark.parametrize("word", ["coco2071", "sigm"])
def test_bad_input_is_refused_and_leaves_nothing(clone, word):
    """A value and a key; values of every kind have their turn in tests/core/test_schema.py and test_mistakes.py."""
    argument = {"coco2071": "dataset=coco2071", "sigm": "sigm=0.2"}[word]
    clone.commit()
    result = clone.run("dvc", "exp", "run", "--temp", "-S", argument, check=False)
    assert result.returncode != 0
    assert word in result.stdout + result.stderr and "Traceback" not in result.stderr
    clone.run(
        "python", "-c", "from pipeline.artifacts import dvc_lock; dvc_lock.keep_private()"
    )  # DVC emptied dvc.lock
    assert status(clone) == ""


def stages_to_run(clone):
    """Names of the stages that `dvc repro` would execute now, up to the first whose inputs do not exist yet.

    Recipes are made before, as `launch` does: what trains depends on them.
    """
    clone.run("dvc", "repro", "recipes")
    output = clone.run("dvc", "repro", "--dry", check=False).stdout
    return set(re.findall(r"^Running stage '(.*)'", output, re.MULTILINE))


def test_plotting_code_retrains_nothing(clone):
    clone.commit()
    path = clone.folder / "pipeline/reporting/style.py"
    path.write_text(path.read_text() + "\n# another colour\n")
    stages = stages_to_run(clone)
    clone.run("git", "checkout", "-q", ".")
    assert "figures@loss_curves" in stages
    assert not {name for name in stages if name.startswith(("train", "evaluate", "tables", "pretrain", "split"))}


def test_more_tables_train_only_what_is_new_and_one_override_only_its_run(clone):
    clone.run("python", "-m", "commands.select", "table2", "table7")
    trained = {name for name in stages_to_run(clone) if name.startswith(("train", "pretrain"))}
    assert trained == {"train@contrastmask_own_queries"}
    clone.run("git", "checkout", "-q", ".")
    clone.edit_experiments({("runs", "cam_r50_1x_nonvoc2voc"): {"overrides": {"cam_normalise": "before_upsample"}}})
    trained = {name for name in stages_to_run(clone) if name.startswith(("train", "pretrain"))}
    clone.run("git", "checkout", "-q", ".")
    assert trained == {"train@cam_r50_1x_nonvoc2voc"}


def test_a_finished_report_becomes_the_snapshot(clone):
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "repro")
    clone.commit()
    clone.run("python", "-m", "commands.snapshot")
    changed = {line.split()[-1] for line in status(clone).splitlines()}
    assert changed == {"README.md", "reports/snapshot/"}  # the clone was made without one
    page = clone.folder / "reports/snapshot/README.md"
    assert clone.run("git", "rev-parse", "HEAD").stdout.strip() in page.read_text()
    assert broken(page, lambda path: path.exists()) == []
    assert not list(clone.folder.glob("reports/snapshot/figures/*.pdf"))
    clone.run("git", "checkout", "-q", ".")
    shutil.rmtree(page.parent)


@pytest.fixture
def make(clone):
    """`make` as typed in the clone, whose environment is the one that runs the tests."""
    programs = clone.folder / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name in ("python", "dvc"):
        (programs / name).write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / name}" "$@"\n')
        (programs / name).chmod(0o755)
    (programs.parent / ".stamp").touch()
    yield lambda command: clone.run(*command.split())
    shutil.rmtree(programs.parent)


def test_what_is_not_built_or_evaluated_is_made_as_printed(clone, make):
    clone.run("git", "checkout", "-q", ".")
    for missing, step, command in (
        ("reports/generated/tables/table2.md", "commands.show", "make reproduce"),
        ("results/generated/current.json", "stages.headline current", "dvc repro evaluate@current"),
    ):
        (clone.folder / missing).unlink()
        failed = clone.run("python", "-m", *step.split(), check=False)
        assert failed.returncode == 1 and re.findall("`(.*)`", failed.stderr) == [command]
        make(command)
        clone.run("python", "-m", *step.split())


def test_the_page_of_mlflow_opens_on_the_port_that_is_printed(clone, make):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = clone.run("python", "-m", "commands.ui", "--port", str(port), check=False)
    (command,) = re.findall("`(.*)`", failed.stderr)
    other = int(command.removeprefix("make ui PORT="))
    server = subprocess.Popen(
        command.split(),
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            assert server.poll() is None
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{other}", timeout=5) as page:
                assert page.status == 200
                break
            time.sleep(0.1)
        else:
            pytest.fail("no answer within a minute")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


DIVERGED = "lower the learning rate"


def test_a_run_that_fails_is_shown_and_stops_nothing_else(clone):
    clone.run("python", "-m", "commands.select", "table6")
    clone.edit_experiments(
        {("runs", "contrastmask_novel_only"): {"overrides": {"supervision": "novel", "cl_loss_weight": 1e300}}}
    )
    launched = clone.run("python", "-m", "commands.launch", "--jobs", "2", check=False)
    assert launched.returncode == 1
    (line,) = [line for line in launched.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: 1 of 4 runs have no result: contrastmask_novel_only (failed: ") and DIVERGED in line
    with (clone.folder / "reports/generated/tables/table6.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["contrastmask_novel_only"]["state"].startswith("failed: ")
    assert rows["contrastmask_base_only"]["state"] == "done"
    page = (clone.folder / "reports/generated/index.html").read_text()
    assert DIVERGED in page and "table6" in page

    clone.edit_experiments({("runs", "contrastmask_novel_only"): {"overrides": {"supervision": "novel"}}})
    clone.run("python", "-m", "commands.launch", "--jobs", "2")
    assert DIVERGED not in (clone.folder / "reports/generated/index.html").read_text()
    again = clone.run("python", "-m", "commands.launch")
    assert "up to date" in again.stderr


def test_a_run_as_on_another_processor_leaves_git_status_clean(clone):
    """Other instructions round differently, so weights, results and dvc.lock differ as on another machine."""
    clone.run("git", "checkout", "-q", ".")
    lock = (clone.folder / "dvc.lock").read_text()
    shutil.rmtree(clone.folder / "scratch")  # else the finished trainings there are used again
    other = {"OPENBLAS_CORETYPE": "Nehalem", "DNNL_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
    as_elsewhere = ["env", *(f"{name}={value}" for name, value in other.items())]
    clone.run(*as_elsewhere, "dvc", "repro", "-f", "-s", "train@current", "evaluate@current", "headline")
    clone.run(*as_elsewhere, "dvc", "repro")
    assert (clone.folder / "dvc.lock").read_text() != lock
    assert status(clone) == ""
