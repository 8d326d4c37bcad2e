"""What messages about files of the pipeline say to do is done, in a clone; then the step that failed works.

Steps run in this process, on the files of the clone: their libraries take seconds to load.
"""

from pipeline import compat  # noqa: F401  # isort: skip  before anything that imports torchvision

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet.models import build_backbone, build_detector

from pipeline import doctor, methods, runs
from pipeline.artifacts import checkpoint, paths
from pipeline.datasets.annotations import read_instances
from pipeline.declaration import config, experiments, recipe
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError, NothingToShow
from pipeline.launching import plan
from pipeline.methods.contrastmask import oracle, oracle_steps
from pipeline.reporting import figures, measured, report, roi_cells, tables
from pipeline.tasks.instances import examples
from pipeline.tasks.instances.packed_coco import PartialCocoDataset
from pipeline.training import starting_weights
from tests.e2e.clone import Clone

pytestmark = pytest.mark.slow

DATASET, DIRECTION = "generated", "nonvoc2voc"
RUN = "contrastmask_r50_1x_nonvoc2voc"  # the one that figures look into
LATER = "contrastmask_own_queries"  # of a table that is not chosen


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("clone"))
    clone.run("dvc", "repro", f"evaluate@{RUN}", f"look_inside@{RUN}")
    clone.commit()
    return clone


@pytest.fixture
def clone(made, monkeypatch):
    """Paths lead to the clone."""
    for name in ("EXPERIMENTS", "PUBLISHED", "SELECTION", "PARAMS", "PAPER_KNOBS", "SNAPSHOT"):
        monkeypatch.setattr(paths, name, made.folder / getattr(paths, name).relative_to(paths.ROOT))
    monkeypatch.setattr(paths, "ROOT", made.folder)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(made.folder))
    oracle_steps.complete_annotations.cache_clear()
    yield made
    oracle_steps.complete_annotations.cache_clear()


REMOVE = re.compile("remove (the file|it) and")


def obey(clone, text):
    """Do what a message says: remove the file that it begins with, if it says so, and run the command at its end."""
    if REMOVE.search(text):
        (clone.folder / text.partition(":")[0]).unlink()
    command = re.findall("`([^`]+)`", text)[-1]
    done = subprocess.run(command, shell=True, cwd=clone.folder, env=clone.environment, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
    return command


def refused(step, said):
    """What a step says that fails, one line."""
    with pytest.raises(ExperimentError, match=said) as caught:
        step()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mend(clone, step, said):
    """Let a step fail, obey, and let it succeed. Returns the command."""
    command = obey(clone, refused(step, said))
    step()
    return command


def mend_together(clone, *cases):
    """Spoil something and let a step fail, case by case; obey the one command that all of them print; let all succeed.

    Args:
        cases: (function that spoils, step, what it says) each.
    """
    texts = []
    for spoils, step, said in cases:
        spoils()
        texts.append(refused(step, said))
    (command,) = {re.findall("`([^`]+)`", text)[-1] for text in texts}
    for text in texts:
        if REMOVE.search(text):
            (clone.folder / text.partition(":")[0]).unlink(missing_ok=True)
    obey(clone, f"`{command}`")
    for _, step, _ in cases:
        step()
    return command


def job(name=RUN):
    return config.resolve(name, DATASET, 0)


def trained():
    runs.require_trained(job())


def run():
    return experiments.load().runs[RUN]


def spoil(path):
    path.write_text("{")


def spoil_in_place(path):
    """As a fault of the disk: DVC, which looks at size and time alone, sees no change."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(b"\0\1" * 500)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_tree(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_run_that_is_not_trained(clone):
    remove_tree(paths.run(DATASET, RUN))
    assert mend(clone, trained, "not trained yet") == f"dvc repro train@{RUN}"


def test_a_checkpoint_that_is_damaged_or_of_another_run(clone):
    path = paths.checkpoint(DATASET, RUN, 0)
    weights = checkpoint.read(path)["state_dict"]
    command = mend_together(
        clone,
        (lambda: spoil_in_place(path), trained, "damaged"),
        (
            lambda: checkpoint.write(path, weights, {"fingerprint": "0"}),
            trained,
            "trained with other code, settings or data",
        ),
    )
    assert command == f"dvc repro -s -f train@{RUN}"


def test_what_a_training_starts_from_is_missing(clone):
    step = lambda: recipe.fingerprint(job())  # noqa: E731
    needed = paths.split_train(DATASET, DIRECTION), paths.manifest(DATASET), paths.initial_weights(DATASET, "r50")
    for path in needed:
        kept = path.rename(path.with_name("kept"))
        refused(step, f"{path.name}: no such file.*`dvc repro train@{RUN}`")
        kept.rename(path)
    for path in needed:
        path.unlink()
    assert mend(clone, step, "no such file") == f"dvc repro train@{RUN}"


def load_initial_weights():
    methods.register(job().method, job().knobs)
    model = build_detector(mmcv.ConfigDict(job().model))
    starting_weights.load(model, paths.initial_weights(DATASET, "r50"))


def test_initial_weights_that_are_damaged_or_of_another_model(clone):
    path = paths.initial_weights(DATASET, "r50")
    command = mend_together(
        clone,
        (lambda: spoil_in_place(path), load_initial_weights, "damaged"),
        (
            lambda: checkpoint.write(path, {"backbone.other": torch.zeros(1)}, {}),
            load_initial_weights,
            "has no place in the model",
        ),
    )
    assert command == "dvc repro -s -f pretrain@r50"


def read_result():
    assert measured.result(DATASET, run()) is not None


def test_a_malformed_result_or_log(clone):
    command = mend_together(
        clone,
        (lambda: spoil(paths.results(DATASET, RUN)), read_result, "not JSON"),
        (
            lambda: spoil(next(paths.logs(DATASET, RUN).glob("seed*.jsonl"))),
            lambda: measured.losses(DATASET, run()),
            "no(t a)? JSON",
        ),
    )
    assert command == f"dvc repro evaluate@{RUN}"


def request_of_a_figure():
    """By a figure that shows one run."""
    declared = experiments.load()
    series = tuple(each for each in figures.series_of({"tables": ["table2"]}, declared) if each.run.name == RUN)
    return figures.Request("loss_curves", {}, DATASET, declared, series)


def test_a_result_that_a_table_or_a_figure_lacks(clone):
    """Both print the command of `measured.evaluate_command`, for all runs that lack at once: here for one."""
    paths.results(DATASET, RUN).unlink()
    declared = experiments.load()
    frame = tables.table_frame("table2", declared, DATASET)
    alone = frame[frame["run"] == RUN]
    text = tables.markdown("table2", alone, declared, DATASET)
    (line,) = [line for line in text.splitlines() if line.startswith("No result on")]
    request = request_of_a_figure()
    with pytest.raises(NothingToShow) as nothing:
        request.available(measured.result)
    commands = [re.findall("`(dvc[^`]+)`", said) for said in (line, str(nothing.value))]
    assert commands == [[f"dvc repro evaluate@{RUN}"]] * 2
    obey(clone, f"`{commands[0][0]}`")
    read_result()
    assert request.available(measured.result)[1] == ""


def test_what_the_page_lacks_is_made_as_it_says(clone):
    """The commands beside a table and a figure; the inputs of both are as they were, so nothing else is made."""
    for file, section in (
        (paths.table(DATASET, "table2", "md"), report.table_section("table2", experiments.load(), DATASET)),
        (
            paths.figure(DATASET, "supp_fig1_partition", "png"),
            report.figure_section("supp_fig1_partition", experiments.load(), DATASET),
        ),
    ):
        command = section["command"]
        assert command.startswith("dvc repro ")
        clone.run(*command.split()[:2], "-s", *command.split()[2:])  # the other runs of table2 are not trained here
        assert file.exists()


def draw_partition():
    figures.build_figure("supp_fig1_partition")


def test_stage_look_inside_has_not_run_or_left_a_damaged_file(clone):
    path = paths.look_inside(DATASET, RUN)
    available = lambda: request_of_a_figure().available(roi_cells.read, roi_cells.look_inside_command)  # noqa: E731
    command = mend_together(
        clone,
        (path.unlink, available, "none of its runs has data"),
        (lambda: spoil(path), draw_partition, "remove the file"),
    )
    assert command == f"dvc repro look_inside@{RUN}"


def test_objects_of_stage_look_inside_that_are_gone(clone):
    path = paths.look_inside(DATASET, RUN)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **arrays | {"annotation_ids": arrays["annotation_ids"] + 10**6})
    assert roi_cells.read(DATASET, run()) is not None
    assert (
        mend(clone, draw_partition, "which the validation set has no more") == "dvc repro -s -f --glob 'look_inside@*'"
    )


def test_missing_annotations(clone):
    for subset, step in (
        ("val2017", lambda: examples.load_ground_truth(DATASET)),
        ("train2017", lambda: read_instances(paths.annotations(DATASET, "train2017"), label_set("coco"))),
    ):
        paths.annotations(DATASET, subset).unlink()
        assert mend(clone, step, "missing") == "python -m stages.download"


def test_annotations_in_another_encoding_or_none(clone):
    path = paths.annotations(DATASET, "train2017")
    for content, said in ((b"\xff\xfe[", "not UTF-8"), (b"{", "not a JSON file")):
        path.write_bytes(content)
        assert mend(clone, lambda: read_instances(path, label_set("coco")), said) == "python -m stages.download"


def test_a_damaged_manifest(clone):
    spoil(paths.manifest(DATASET))
    step = lambda: plan.training_images(DATASET, experiments.load())  # noqa: E731
    assert mend(clone, step, "damaged; remove it") == "python -m stages.download"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content["annotations"])
    path.write_text(json.dumps(content))


def partial(pipeline=()):
    path = paths.split_train(DATASET, DIRECTION)
    return PartialCocoDataset(
        label_set=label_set("coco"),
        ann_file=str(path),
        img_prefix=str(paths.images_root(DATASET) / "train2017"),
        pipeline=list(pipeline),
    )


def test_a_split_with_masks_of_novel_objects(clone):
    edit(
        paths.split_train(DATASET, DIRECTION),
        lambda annotations: annotations[0].update(novel=True, segmentation=[[0, 0, 9, 0, 9, 9]]),
    )
    assert mend(clone, partial, "is novel and has a mask") == f"dvc repro -s -f split@{DIRECTION}"


def test_a_split_of_other_boxes_than_the_complete_annotations(clone):
    edit(
        paths.split_train(DATASET, DIRECTION),
        lambda annotations: [each.update(bbox=[1.5, 1.5, 20.25, 20.25]) for each in annotations],
    )

    def step():
        steps = oracle.with_prior_masks(job().data["train"], DATASET)
        return partial(steps)[0, 7]

    assert mend(clone, step, "a box of the split is not in") == "dvc repro split"


def test_images_that_doctor_misses(clone, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"dataset": doctor.check_dataset})
    remove_tree(paths.images_root(DATASET))
    paths.images_root(DATASET).rmdir()
    (finding,) = doctor.examine()
    assert finding.status == doctor.BROKEN
    assert obey(clone, finding.remedy) == "python -m stages.download"
    assert doctor.examine()[0].status == doctor.OK


def test_a_knob_that_is_missing(clone):
    text = paths.PARAMS.read_text()
    paths.PARAMS.write_text(re.sub(r"(?m)^sigma:.*\n", "", text))
    with pytest.raises(ExperimentError, match="knob 'sigma' is missing") as caught:
        job("current")
    (command,) = re.findall("`([^`]+)`", str(caught.value))
    (line,) = re.findall(r"(?m)^-(sigma:.*\n)", clone.run(*command.split()).stdout)
    with paths.PARAMS.open("a") as file:
        file.write(line)
    job("current")
    paths.PARAMS.write_text(text)


def test_a_declaration_that_is_missing(clone):
    for path in (paths.PAPER_KNOBS, paths.PARAMS):
        path.unlink()
        mend(clone, experiments.load, "no such file")


def test_a_selection_that_is_not_what_is_declared(clone):
    text = paths.SELECTION.read_text()
    paths.SELECTION.write_text(text.replace("ResNet-50", "ResNet"))
    assert mend(clone, experiments.selected, "is not what") == "python -m commands.select"
    assert paths.SELECTION.read_text() == text


def test_a_run_of_a_table_that_is_not_chosen(clone):
    """DVC does not know it: the table is chosen first."""
    text = paths.SELECTION.read_text()
    command = mend(clone, lambda: runs.require_trained(job(LATER)), "not trained yet")
    assert command == f"python -m commands.select table2 table7 && dvc repro train@{LATER}"
    paths.SELECTION.write_text(text)


def test_initial_weights_that_are_not_what_their_name_says(clone, tmp_path):
    """A file put there by hand; the place it comes from is a folder here."""
    declared = experiments.load().profile(DATASET)["backbones"]["r50"]
    torch.manual_seed(0)
    right = tmp_path / "weights.pth"
    torch.save(build_backbone(dict(declared)).state_dict(), right)
    named = tmp_path / f"weights-{hashlib.sha256(right.read_bytes()).hexdigest()[:8]}.pth"
    right.rename(named)
    profiles = paths.EXPERIMENTS / "profiles.yaml"
    before = profiles.read_text()
    urls = dict.fromkeys(experiments.load().backbones, named.as_uri())
    clone.edit_experiments({("profiles", "embedded"): {"initial_weights": {"kind": "download", **urls}}})
    clone.run("python", "-m", "commands.select")
    put = paths.home() / "data" / "weights" / named.name
    put.parent.mkdir(parents=True, exist_ok=True)
    put.write_bytes(b"something else")
    try:
        failed = clone.run("python", "-m", "stages.pretrain", "r50", check=False)
        assert failed.returncode == 1 and "its SHA-256 starts with" in failed.stderr
        (command,) = re.findall("delete it and run `([^`]+)`", failed.stderr)
        Path(failed.stderr.split("error: ")[1].partition(":")[0]).unlink()
        clone.run(*command.split())
        assert put.read_bytes() == named.read_bytes()
        assert checkpoint.read(paths.initial_weights(DATASET, "r50"))["state_dict"]
    finally:
        profiles.write_text(before)
        clone.run("python", "-m", "commands.select")
        clone.run("dvc", "repro", "-q", "pretrain@r50")


def test_nothing_of_it_shows_in_git(clone):
    assert clone.run("git", "status", "--porcelain").stdout == ""
