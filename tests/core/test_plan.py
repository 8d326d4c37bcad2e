import dataclasses
import io
import json
from types import SimpleNamespace

import mmcv
import pytest
import torch
from mmdet.models import build_detector

from commands import select
from pipeline.artifacts import paths
from pipeline.declaration import config, experiments
from pipeline.errors import ExperimentError
from pipeline.launching import plan

EMBEDDED = experiments.load().profiles["embedded"]
IMAGES = EMBEDDED["schedules"]["1x"]["iterations"] * EMBEDDED["training"]["batch_size"]  # of a training


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing has been downloaded, trained or evaluated."""
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    for name in ("manifest", "results"):
        declared = getattr(paths, name)
        monkeypatch.setattr(paths, name, lambda *args, path=declared: tmp_path / path(*args).relative_to(paths.ROOT))
    monkeypatch.setattr(paths, "SELECTION", tmp_path / "selection.yaml")
    experiments.select(["table2"])
    return tmp_path


def attempt(home, dataset, name, **progress):
    path = paths.statuses(dataset) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"state": "trained", "stage": "train", "host": "", "pid": 1, "process_started": 0, "fingerprint": name}
    path.write_text(json.dumps(record))
    scratch = paths.scratch(name)
    scratch.mkdir(parents=True)
    (scratch / "progress.json").write_text(json.dumps(progress))


def test_images_of_the_paper_s_schedules():
    job = config.resolve("contrastmask_r50_1x_nonvoc2voc", "coco2017", 0)
    assert plan.images_drawn(job, 118287) == 12 * 7393 * 16  # 7393 steps of 16 see every image once
    job = config.resolve("contrastmask_r50_3x_nonvoc2voc", "coco2017", 0)
    assert plan.images_drawn(job, 118287) == 36 * 7393 * 16
    assert plan.images_drawn(config.resolve("cam_r50_1x_nonvoc2voc", "generated", 0), 1500) == IMAGES


def test_no_throughput_no_hours():
    items = plan.plan("generated")
    assert [item.hours for item in items] == [None] * 4 and plan.wall_hours(items, 2) is None
    assert [item.state for item in items] == ["not run"] * 4
    given = plan.plan("generated", images_per_second=16)
    assert [item.hours for item in given] == [pytest.approx(IMAGES / 16 / 3600)] * 4


def test_a_measured_throughput_counts_for_its_method_and_beats_a_given_one(home):
    attempt(home, "generated_study1", "cam_r50_1x_nonvoc2voc", iteration=100, of=160, seconds=50)
    items = {item.name: item for item in plan.plan("generated", images_per_second=1)}
    assert items["cam_r50_1x_nonvoc2voc"].pace == "measured here" and items["current"].pace == "given"
    pace = 100 * EMBEDDED["training"]["batch_size"] / 50
    assert items["cam_r50_1x_nonvoc2voc"].hours == pytest.approx(IMAGES / pace / 3600)
    assert items["current"].hours == pytest.approx(IMAGES / 3600)


PINNED = ("mask_rcnn_r50_1x_nonvoc2voc", "cam_r50_1x_nonvoc2voc", "contrastmask_r50_1x_nonvoc2voc")


def test_seeds_that_are_asked_for_are_those_of_pinned_runs_and_are_priced(home):
    experiments.select(["table2"], seeds=[0, 1, 2])
    assert experiments.selected()["seeds"] == [0, 1, 2]
    items = {item.name: item for item in plan.plan("generated", images_per_second=16)}
    assert {name: item.seeds for name, item in items.items()} == {**dict.fromkeys(PINNED, 3), "current": 1}
    assert items[PINNED[0]].hours == pytest.approx(3 * IMAGES / 16 / 3600)
    experiments.select(["table2"])
    assert config.load_knobs(experiments.load().run(PINNED[0])).seeds == (0,)


def test_a_row_that_names_seeds_keeps_them(home):
    experiments.select(["table2"], seeds=[0, 1, 2])
    run = experiments.load().run(PINNED[0])
    assert config.load_knobs(dataclasses.replace(run, overrides={"seeds": [7]})).seeds == (7,)


def test_of_seeds_those_that_are_not_evaluated_are_priced(home, monkeypatch):
    experiments.select(["table2"], seeds=[0, 1, 2])
    result = SimpleNamespace(seeds=(0, 9))
    monkeypatch.setattr(plan.measured, "result", lambda _, run: result if run.name == PINNED[0] else None)
    items = {item.name: item for item in plan.plan("generated", images_per_second=16)}
    assert items[PINNED[0]].state == "1 of 3 seeds done" and items[PINNED[0]].hours == pytest.approx(
        2 * IMAGES / 16 / 3600
    )
    result.seeds = (2, 1, 0)
    assert {item.name: item for item in plan.plan("generated")}[PINNED[0]].state == "done"


@pytest.mark.parametrize("seeds", [[1, 1], [-1]])
def test_seeds_that_cannot_be_are_refused(home, seeds):
    with pytest.raises(ExperimentError, match="--seeds: knob seeds is .*valid: a list of different integers"):
        experiments.select(["table2"], seeds=seeds)
    assert experiments.selected()["seeds"] == []


def test_select_keeps_seeds_until_tables_are_named(home, monkeypatch, capsys):
    for arguments, seeds in (
        (["table2", "--seeds", "0", "1"], [0, 1]),
        ([], [0, 1]),
        (["--seeds", "3"], [3]),
        (["table4"], []),
    ):
        monkeypatch.setattr("sys.argv", ["select", *arguments])
        select.main()
        assert experiments.selected()["seeds"] == seeds
        assert (", seeds " in capsys.readouterr().out) == bool(seeds)


def test_select_can_change_the_dataset_and_nothing_else_of_the_parameters(home, monkeypatch, capsys):
    before = paths.PARAMS.read_text()
    monkeypatch.setattr(paths, "PARAMS", home / "params.yaml")
    paths.PARAMS.write_text(before)
    monkeypatch.setattr("sys.argv", ["select", "simformer2", "--dataset", "scenes"])
    select.main()
    assert list(experiments.selected()["tables"]) == ["simformer2"] and experiments.chosen_dataset() == "scenes"
    changed = [pair for pair in zip(before.splitlines(), paths.PARAMS.read_text().splitlines(), strict=True)]
    assert [new.split("#")[0].strip() for old, new in changed if old != new] == ["dataset: scenes"]
    for arguments in (["nothing", "--dataset", "generated"], ["--dataset", "nowhere"]):
        monkeypatch.setattr("sys.argv", ["select", *arguments])
        with pytest.raises(SystemExit):
            select.main()
        assert experiments.chosen_dataset() == "scenes"
    assert "unknown dataset (--dataset): 'nowhere'" in capsys.readouterr().err
    paths.PARAMS.write_text(before.replace("dataset:", "{dataset:", 1) + "}")
    with pytest.raises(ExperimentError, match="no line `dataset: NAME` to change; write"):
        experiments.select(["simformer2"], dataset="scenes")


def test_images_are_those_of_the_manifest_or_the_declaration(home):
    declared = experiments.load()
    assert plan.training_images("coco2017", declared) == 118287
    paths.manifest("coco2017").parent.mkdir(parents=True)
    paths.manifest("coco2017").write_text(json.dumps({"subsets": {"train2017": {"images": 7}}}))
    assert plan.training_images("coco2017", declared) == 7
    del declared.datasets["generated"]["train_images"]
    with pytest.raises(ExperimentError, match="datasets.generated: how many training images"):
        plan.training_images("generated", declared)


def test_wall_time_packs_whole_runs():
    item = plan.plan("generated", 1)[0]
    items = [dataclasses.replace(item, hours=hours) for hours in (3.0, 2.0, 2.0, 1.0, 0.0)]
    assert [plan.wall_hours(items, gpus) for gpus in (1, 2, 3, 9)] == [8, 4, 3, 3]


def test_size_of_a_checkpoint_is_that_of_its_parameters():
    job = config.resolve("mask_rcnn_r50_1x_nonvoc2voc", "generated", 0)
    file = io.BytesIO()
    parameters = plan.parameters(job)  # knows the method's types, too
    torch.save(build_detector(mmcv.ConfigDict(job.model)).state_dict(), file)
    assert file.tell() == pytest.approx(parameters * plan.BYTES, rel=0.2)


def test_a_plan_in_a_file_has_whole_lines(capsys):
    plan.show("generated", 2)
    shown = capsys.readouterr().out
    assert all(f"│ {name} " in shown for name in experiments.selected()["runs"])
    assert "…" not in shown


@pytest.mark.parametrize(
    "numbers, message",
    [
        ({"gpus": 0}, "--gpus 0; valid: 1 or more"),
        ({"gpus": 1, "images_per_second": -1}, "--images-per-second -1; valid: a number above 0"),
        ({"gpus": 1, "images_per_second": 0}, "--images-per-second 0; valid"),
        ({"gpus": 1, "images_per_second": float("nan")}, "--images-per-second nan; valid"),
    ],
)
def test_numbers_that_cannot_be_are_refused(numbers, message):
    with pytest.raises(ExperimentError, match=message):
        plan.show("generated", **numbers)


def test_labels_are_priced_by_their_own_pace_else_by_that_of_training(home, monkeypatch):
    monkeypatch.setattr(experiments, "chosen_dataset", lambda: "scenes")
    experiments.select(["simformer3"])
    monkeypatch.setattr(plan, "parameters", lambda _: 1)

    def labels(**options):
        return {item.name: item for item in plan.plan("scenes", **options)}["label@simformer_s5"]

    item = labels()
    assert (item.images, item.hours, item.pace, item.state) == (800, None, "unknown", "not run")
    assert labels(images_per_second=8).hours == pytest.approx(800 / 8 / 3600)
    attempt(home, "scenes_study2", "simformer_s7", iteration=10, of=20, seconds=20)  # of 8 images
    item = labels()
    assert (item.hours, item.pace) == (pytest.approx(800 / 4 / 3600), "as training")
    attempt(home, "scenes", "label@simformer_s5", iteration=300, of=800, seconds=10)
    item = labels()
    assert (item.hours, item.pace) == (pytest.approx(800 / 30 / 3600), "measured here")
    monkeypatch.setattr(paths, "label_index", lambda *_: home / "progress.json")
    (home / "progress.json").touch()
    assert labels().state == "done" and labels().hours == 0
    assert plan.disk_bytes([labels()], "scenes", experiments.load(), 1)["checkpoints"] == 0
