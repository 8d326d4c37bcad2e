"""The whole DVC pipeline in a temporary clone, on a generated set of a few images and trainings of a few iterations."""

import csv
import json
import re

import pytest

from tests.e2e.clone import Clone

pytestmark = pytest.mark.slow

RUNS = ("mask_rcnn_r50_1x_nonvoc2voc", "cam_r50_1x_nonvoc2voc", "contrastmask_r50_1x_nonvoc2voc", "current")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("clone"))
    clone.run("dvc", "repro")
    return clone


def test_repro_ends_in_table_2(clone):
    with (clone.folder / "reports/tables/table2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == list(RUNS[:3])
    for row in rows:
        measured = clone.json(f"results/generated/{row['run']}.json")["per_seed"][0]["segm"]["novel"]["mAP"]
        assert float(row["mAP"]) == pytest.approx(measured)
        assert row["dataset"] == "generated" and row["direction"] == "nonvoc2voc"
    assert [row["mAP_published"] for row in rows] == ["23.9", "32.3", "35.1"]
    for name in (
        "tables/table2.md",
        "tables/table2.tex",
        "figures/loss_curves.png",
        "figures/qualitative.png",
        "README.md",
    ):
        assert (clone.folder / "reports" / name).stat().st_size > 100


def test_logs_and_config_stand_beside_the_checkpoint(clone):
    for run in RUNS:
        folder = clone.folder / "runs/generated" / run / "seed0"
        assert (folder / "checkpoint.pth").exists() and "contrast" in (folder / "config.py").read_text().lower()
        records = [json.loads(line) for line in (clone.folder / f"logs/generated/{run}/seed0.jsonl").open()]
        assert [record["iter"] for record in records] == [2, 4, 6]
        assert {"loss", "loss_mask", "loss_cls", "lr"} <= set(records[0])
    assert any("contrast" in key for key in records[0])


def test_a_second_repro_does_nothing(clone):
    clone.commit()
    assert "up to date" in clone.run("dvc", "repro").stdout
    assert "up to date" in clone.run("dvc", "status").stdout
    assert clone.run("git", "status", "--porcelain").stdout == ""


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

    found = clone.run("python", "-c", (
        "import json, mlflow; from pipeline import tracking; client, experiment = tracking.connect('generated');"
        "runs = client.search_runs([experiment], \"tags.run = 'current'\");"
        "print(json.dumps([[r.info.status, r.data.params['sigma'], r.data.tags['dvc_experiment'],"
        " 'novel/mask/AP' in r.data.metrics,"
        " len(client.get_metric_history(r.info.run_id, 'train/loss'))] for r in runs]))"
    ))  # fmt: skip
    found = sorted(json.loads(found.stdout.splitlines()[-1]), key=lambda run: run[1])
    assert found == [["FINISHED", "0.2", "lower-sigma", True, 3], ["FINISHED", "0.3", "", True, 3]]


BAD_INPUT = {
    "dataset": (["-S", "dataset=coco2071"], "coco2071"),
    "sigma": (["-S", "sigma=1.5"], "sigma"),
    "sigma zero": (["-S", "sigma=0"], "sigma"),
    "knob": (["-S", "sigm=0.2"], "sigm"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_and_leaves_nothing(clone, case):
    arguments, word = BAD_INPUT[case]
    clone.commit()
    result = clone.run("dvc", "exp", "run", "--temp", *arguments, check=False)
    assert result.returncode != 0
    assert word in result.stdout + result.stderr and "Traceback" not in result.stderr
    assert clone.run("git", "status", "--porcelain").stdout == ""


def stages_to_run(clone):
    """Names of the stages that `dvc repro` would execute now, up to the first whose inputs do not exist yet."""
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
    clone.run("python", "-m", "stages.select", "table2", "table7")
    trained = {name for name in stages_to_run(clone) if name.startswith(("train", "pretrain"))}
    assert trained == {"train@contrastmask_own_queries"}
    clone.run("git", "checkout", "-q", ".")
    clone.edit_experiments({("runs", "cam_r50_1x_nonvoc2voc"): {"overrides": {"delta": 0.2}}})
    trained = {name for name in stages_to_run(clone) if name.startswith(("train", "pretrain"))}
    clone.run("git", "checkout", "-q", ".")
    assert trained == {"train@cam_r50_1x_nonvoc2voc"}


def test_a_run_that_fails_is_shown_and_stops_nothing_else(clone):
    clone.run("python", "-m", "stages.select", "table2", "table6")
    clone.edit_experiments({("runs", "contrastmask_novel_only"): {"overrides": {"supervision": "novle"}}})
    launched = clone.run("python", "-m", "stages.launch", "--jobs", "2", check=False)
    assert launched.returncode == 1
    (line,) = [line for line in launched.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: 1 of 6 runs have no result: contrastmask_novel_only (failed: ") and "novle" in line
    with (clone.folder / "reports/tables/table6.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["contrastmask_novel_only"]["state"].startswith("failed: ")
    assert rows["contrastmask_base_only"]["state"] == "done"
    page = (clone.folder / "reports/index.html").read_text()
    assert "novle" in page and "table6" in page

    clone.edit_experiments({("runs", "contrastmask_novel_only"): {"overrides": {"supervision": "novel"}}})
    clone.run("python", "-m", "stages.launch", "--jobs", "2")
    assert "novle" not in (clone.folder / "reports/index.html").read_text()
    again = clone.run("python", "-m", "stages.launch")
    assert "up to date" in again.stderr
