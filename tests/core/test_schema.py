"""Whatever is wrong in a declaration is one line with file, field and a way out, before anything costs time."""

import importlib
import random
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from ruamel.yaml import YAML

from pipeline import doctor, methods
from pipeline.artifacts import paths
from pipeline.datasets.generated import scenes
from pipeline.declaration import experiments, references, schema, strict
from pipeline.declaration.label_sets import known, label_set
from pipeline.errors import ExperimentError
from pipeline.launching import settings
from pipeline.reporting.figures import KINDS
from pipeline.training.precision import DTYPES
from pipeline.training.schedule import POLICIES
from tests import knob_files

WRITER = YAML(typ="safe")
SELECTION = paths.SELECTION


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A copy of what is declared: experiments, published numbers, params.yaml and pinned knobs."""
    knob_files.copy(tmp_path)
    shutil.copytree(paths.EXPERIMENTS, tmp_path / paths.EXPERIMENTS.relative_to(paths.ROOT))
    shutil.copy(paths.PARAMS, tmp_path)
    (tmp_path / "machine.yaml").write_text("runs: {}\nslurm: {}\n")
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "SELECTION", tmp_path / "pipeline" / "selection.yaml")
    shutil.copy(SELECTION, paths.SELECTION)
    for name in ("EXPERIMENTS", "PUBLISHED", "PARAMS", "PAPER_KNOBS"):
        monkeypatch.setattr(paths, name, tmp_path / getattr(paths, name).relative_to(paths.ROOT))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def edit(file, keys, value):
    """Set a value in a YAML file, or remove it (`...`); keys lead to it. Which file of a folder has it is looked up."""
    files = sorted(file.glob("*.yaml")) if file.is_dir() else [file]
    path = next((path for path in files if keys[0] in WRITER.load(path)), files[0])
    content = here = WRITER.load(path)
    for key in keys[:-1]:
        here = here[key]
    if value is ...:
        del here[keys[-1]]
    else:
        here[keys[-1]] = value
    WRITER.dump(content, path)


def refused():
    """What the first command says that reads all of it."""
    with pytest.raises(ExperimentError) as error:
        experiments.load()
        settings.load()
        experiments.chosen_dataset()
    text = str(error.value)
    assert "\n" not in text
    return text


KNOBS = str(paths.PAPER_KNOBS.relative_to(paths.ROOT))
NUMBERS = "pipeline/experiments/published/contrastmask.yaml"
BASELINE = ("tables", 1, "rows", 0, "results", "nonvoc2voc")
RUN = "contrastmask_r50_1x_nonvoc2voc"
TRAINING = ("profiles", "full", "training")
AGAIN = {
    "method": "simformer",
    "backbone": "r50",
    "schedule": "1x",
    "knobs": "pipeline/methods/simformer/knobs.yaml",
    "direction": "s5",
}


def again(labels, supervision="pseudo", **row):
    """A run that is trained on labels of another one."""
    overrides = {"pairs": "none", "supervision": supervision, "pseudo_labels": labels}
    return AGAIN | {"overrides": overrides} | row


DATASET = {"kind": "generated", "profile": "embedded", "version": 1, "seed": 0, "train_images": 1, "val_images": 1}
DATASET |= {"image_size": 64, "label_set": "coco", "train": "train2017", "validation": "val2017"}
ROW = ("tables", "table2", "rows", 0)
ARCHIVES = ("datasets", "coco2017", "archives")
GOOD = {"bytes": 5, "md5": "0" * 32}
# In the declaration: keys, the value written there (`...` removes it), and the end of the line after its file.
MISTAKES = {
    # sections
    "no data sets": (("datasets",), {}, "datasets: has 0 items; valid: at least 1"),
    "name of a data set": (("runs", "current", "dataset"), "a-b", "dataset: is 'a-b'; names consist of a-z, 0-9 and _"),
    "stages": (
        ("profiles", "embedded", "backbones", "r50", "out_indices"),
        [0, 1, 3],
        r".out_indices: is \[0, 1, 3\]; valid: different numbers of stages in .*, below num_stages \(3\)",
    ),
    "fewer stages": (
        ("profiles", "full", "backbones", "r50", "num_stages"),
        3,
        "r50.strides: has 4 items; valid: 3, as num_stages",
    ),
    "depth in quotes": (
        ("profiles", "full", "backbones", "r50", "depth"),
        "50",
        ".depth: is '50'; valid: 18, 34, 50, 101, 152",
    ),
    "section": (("runns",), {}, "runns: unknown key; valid: .* did you mean 'runs'?"),
    # datasets
    "dataset kind": (("datasets", "generated", "kind"), "genrated", ".kind: is 'genrated'; .* mean 'generated'?"),
    "no kind": (
        ("datasets", "generated", "kind"),
        ...,
        ".kind: is missing; valid: generated, coco, own, own_maps, label_maps, drawn_maps",
    ),
    "dataset key": (("datasets", "generated", "sead"), 1, ".sead: unknown key; valid: .* did you mean 'seed'?"),
    "dataset without": (
        ("datasets", "generated", "seed"),
        ...,
        "datasets.generated.seed: is missing; valid: a whole number",
    ),
    "generator": (("datasets", "generated", "version"), 3, ".version: is 3; valid: 1, 2"),
    "image size": (("datasets", "generated", "image_size"), 16, ".image_size: is 16; valid: at least 64"),
    "images": (("datasets", "generated", "train_images"), "many", ".train_images: is 'many'; valid: a whole number"),
    "profile": (("datasets", "generated", "profile"), "embeded", "unknown profile 'embeded'; .* mean 'embedded'?"),
    "archives": (("datasets", "coco2017", "archives"), {}, ".archives: has 0 items; valid: at least 1"),
    "no digest": (
        (*ARCHIVES, "zips/val2017.zip"),
        {"bytes": 5},
        r"archives.zips/val2017.zip: has no checksum; give md5, sha256 or both",
    ),
    "no size": ((*ARCHIVES, "zips/val2017.zip"), {"md5": "0" * 32}, "val2017.zip.bytes: is missing; valid: a whole .*"),
    "no facts": ((*ARCHIVES, "zips/val2017.zip"), None, "val2017.zip: expected a mapping, found nothing"),
    "elsewhere": ((*ARCHIVES, "../a.zip"), GOOD, "'../a.zip' leaves the base URL; give a plain relative path"),
    "at the root": ((*ARCHIVES, "/etc/a.zip"), GOOD, "'/etc/a.zip' leaves the base URL; .*"),
    "no base": (("datasets", "coco2017", "base_url"), ..., ".base_url: is missing; give an http.*"),
    "no archives": (("datasets", "coco2017", "archives"), ..., ".archives: is missing; give {relative url: .*"),
    "seed": (("datasets", "generated", "seed"), -1, ".seed: is -1; valid: at least 0"),
    "true seed": (("datasets", "generated", "seed"), True, ".seed: is true; valid: a whole number"),
    "archive key": (("datasets", "coco2017", "root"), "COCO_ROOT", ".root: unknown key; .* mean 'root_env'?"),
    "digest": (
        ("datasets", "coco2017", "archives", "zips/val2017.zip", "md5"),
        "442b",
        "md5: is '442b'; valid: 32 hexadecimal digits in quotes",
    ),
    "paper data": (("datasets", "coco2017", "paper_data"), "yes", ".paper_data: is 'yes'; valid: true, false"),
    "dataset name": (
        ("datasets", "snapshot"),
        DATASET,
        "reports/snapshot is taken; choose another name",
    ),
    "label set": (
        ("datasets", "generated", "label_set"),
        "cocoo",
        ".label_set: unknown label set 'cocoo'; valid: ade20k, coco, .*; did you mean 'coco'?",
    ),
    "no label set": (("datasets", "generated", "label_set"), ..., ".label_set: is missing; a file of .*, such as coco"),
    "profile of maps": (
        ("datasets", "generated", "profile"),
        "embedded_maps",
        "profile 'embedded_maps' is for data sets of maps, this one holds objects; name another",
    ),
    "objects in maps": (
        ("runs", "contrastmask_r50_1x_nonvoc2voc", "dataset"),
        "scenes",
        "'scenes' holds maps, and method 'contrastmask' reads objects; name another",
    ),
    "one subset": (("datasets", "generated", "validation"), "train2017", "is 'train2017', as `train`; name another .*"),
    # profiles
    "architecture": (
        ("profiles", "smoke", "architecture", "two_stage", "neck_chanels"),
        48,
        "neck_chanels: unknown key; valid: neck_channels, .*; did you mean 'neck_channels'?",
    ),
    "size": (("profiles", "smoke", "architecture", "two_stage", "strides"), 4, ".strides: expected a list, found int"),
    "half a channel": (
        ("profiles", "smoke", "architecture", "two_stage", "neck_channels"),
        2.5,
        "is 2.5; valid: a whole number",
    ),
    "switch": (
        ("profiles", "smoke", "architecture", "two_stage", "box_reg_pooled"),
        1,
        "box_reg_pooled: is 1; valid: true, false",
    ),
    "backbone type": (("profiles", "full", "backbones", "r50", "type"), "Resnet", ".type: is 'Resnet'; .* 'ResNet'?"),
    "depth": (("profiles", "full", "backbones", "r50", "depth"), 52, ".depth: is 52; valid: 18, 34, 50, 101, 152"),
    "no such backbone": (
        ("profiles", "full", "backbones", "r52"),
        {"type": "ResNet", "depth": 50},
        "unknown backbone 'r52'; valid: .* did you mean 'r50'?",
    ),
    "weights": (("profiles", "smoke", "initial_weights", "kind"), "randm", ".kind: is 'randm'; .* mean 'random'?"),
    "no url": (
        ("profiles", "full", "initial_weights", "x101"),
        ...,
        "initial_weights.x101: is missing; give the URL of its weights",
    ),
    "url": (
        ("profiles", "full", "initial_weights", "r50"),
        "resnet50.pth",
        "r50: is 'resnet50.pth'; valid: the URL of .*",
    ),
    "pre-training": (
        ("profiles", "embedded", "initial_weights", "iterations"),
        0,
        "initial_weights.iterations: is 0; valid: at least 1",
    ),
    "its classifier": (
        ("profiles", "embedded", "initial_weights", "classifier", "crop_size"),
        8,
        "initial_weights.classifier.crop_size: is 8; valid: at least 32",
    ),
    "knob of a profile": (
        ("profiles", "embedded", "knobs"),
        {"tau_esy": 0.5},
        "profiles.embedded.knobs.tau_esy: unknown key; valid: tau_easy, .*; did you mean 'tau_easy'?",
    ),
    "knob that no recipe decides": (
        ("profiles", "embedded", "knobs"),
        {"sigma": 0.2},
        "profiles.embedded.knobs.sigma: unknown key; valid: .*",
    ),
    "recipe of a profile": (
        ("profiles", "full", "knobs"),
        {"recipe": "papr"},
        "profiles.full.knobs.recipe: is 'papr'; valid: paper, released; did you mean 'paper'?",
    ),
    "profile of a profile": (
        ("profiles", "full", "knobs"),
        {"recipe": "profile"},
        "profiles.full.knobs.recipe: is 'profile'; valid: paper, released",
    ),
    "its value": (
        ("profiles", "full", "knobs"),
        {"tau_easy": 0, "recipe": "paper"},
        "profiles.full.knobs.tau_easy: is 0; valid: above 0",
    ),
    "the word itself": (
        ("profiles", "full", "knobs"),
        {"loss_denominator": "recipe"},
        "profiles.full.knobs.loss_denominator: is 'recipe'; valid: temperature, plain",
    ),
    "value in place of another": (
        ("profiles", "embedded_maps", "instead"),
        {"points": {50: "many"}},
        "profiles.embedded_maps.instead.points: is 'many'; valid: .*",
    ),
    "knob in place of none": (
        ("profiles", "embedded_maps", "instead"),
        {"pionts": {50: 8}},
        "profiles.embedded_maps.instead.pionts: unknown key; valid: .*; did you mean 'points'?",
    ),
    "its direction": (
        ("profiles", "embedded", "initial_weights", "direction"),
        "boxs",
        "initial_weights.direction: unknown direction 'boxs'; .* mean 'boxes'?",
    ),
    "flip": (("profiles", "full", "images", "flip"), 0.5, "images.flip: unknown key; valid: train_scales, .*"),
    "scale": (("profiles", "full", "images", "test_scale"), [1333], "test_scale: has 1 items; valid: at least 2"),
    "poly": ((*TRAINING, "lr_policy"), "polly", "training.lr_policy: is 'polly'; valid: step, .*"),
    "cosinee": ((*TRAINING, "lr_policy"), "cosinee", ".lr_policy: is 'cosinee'; .* did you mean 'cosine'?"),
    "no policy": ((*TRAINING, "lr_policy"), None, ".lr_policy: is empty; valid: step, cosine, poly"),
    "clipping": ((*TRAINING, "clip_gradients"), 35, ".clip_gradients: unknown key; valid: .*"),
    "precision": ((*TRAINING, "precision"), "fp8", ".precision: is 'fp8'; valid: fp32, bf16, fp16; .*"),
    "optimiser": (
        (*TRAINING, "optimizer", "type"),
        "AdmW",
        "optimizer.type: is 'AdmW'; valid: SGD, AdamW; .* 'AdamW'?",
    ),
    "its key": ((*TRAINING, "optimizer", "momentun"), 0.9, ".momentun: unknown key; .* did you mean 'momentum'?"),
    "rate": ((*TRAINING, "optimizer", "lr"), "0.02", "optimizer.lr: is '0.02'; valid: a number"),
    "true rate": ((*TRAINING, "optimizer", "lr"), True, "optimizer.lr: is true; valid: a number"),
    "no number": ((*TRAINING, "optimizer", "lr"), float("nan"), "optimizer.lr: is nan; valid: a finite number"),
    "infinite": ((*TRAINING, "optimizer", "weight_decay"), float("inf"), "is inf; valid: a finite number"),
    "batch": ((*TRAINING, "batch_size"), 0, "training.batch_size: is 0; valid: at least 1"),
    "warm-up": ((*TRAINING, "warmup_iterations"), -1, ".warmup_iterations: is -1; valid: at least 0"),
    "no iterations": (
        ("profiles", "full", "schedules", "3x"),
        {"iterations": 0, "milestones": []},
        "schedules.3x.iterations: is 0; valid: at least 1",
    ),
    "half": (("profiles", "full", "schedules", "1x", "epochs"), 1.5, "1x.epochs: is 1.5; valid: a whole number"),
    "true epochs": (("profiles", "full", "schedules", "1x", "epochs"), True, "epochs: is true; valid: a whole number"),
    "both units": (
        ("profiles", "full", "schedules", "1x", "iterations"),
        9,
        "schedules.1x: has epochs and iterations; valid: milestones, and either epochs or iterations",
    ),
    "passes of passes": (
        ("profiles", "full", "schedules", "1x", "stands_for"),
        12,
        "1x.stands_for: is for a length in iterations; epochs are passes already",
    ),
    "milestone beyond a pretraining": (
        ("profiles", "embedded", "initial_weights", "milestones"),
        [1000],
        r"initial_weights.milestones: is \[1000\]; valid: whole iterations in ascending order, above 0 and below 1000",
    ),
    "no passes": (
        ("profiles", "embedded", "schedules", "1x", "stands_for"),
        0,
        "1x.stands_for: is 0; valid: at least 1",
    ),
    "unit": (
        ("profiles", "full", "schedules", "1x"),
        {"epoch": 12, "milestones": []},
        "schedules.1x.epoch: unknown key; valid: epochs, .*, milestones; did you mean 'epochs'?",
    ),
    "no milestones": (("profiles", "full", "schedules", "1x", "milestones"), ..., "1x.milestones: is missing; .*"),
    "order": (("profiles", "full", "schedules", "1x", "milestones"), [11, 8], r"is \[11, 8\]; valid: .* ascending .*"),
    "twice": (("profiles", "full", "schedules", "1x", "milestones"), [8, 8], "is .*; valid: whole epochs in asc.*"),
    "late": (("profiles", "full", "schedules", "1x", "milestones"), [8, 12], "valid: .* above 0 and below 12"),
    "early": (("profiles", "full", "schedules", "1x", "milestones"), [0, 8], r"milestones\[0\]: is 0; .* at least 1"),
    "a number": (("profiles", "full", "schedules", "1x", "milestones"), 8, "milestones: expected a list, found int"),
    "own schedule": (("profiles", "full", "schedules", "3x"), ..., "unknown schedule of profile full: '3x'; .* '1x'?"),
    # presets, runs
    "preset": (("presets", "pinned", "bakbone"), "r50", "presets.pinned.bakbone: unknown key; .* mean 'backbone'?"),
    "method": (("runs", "current", "method"), "contrastmusk", "method 'contrastmusk'; .* mean 'contrastmask'?"),
    "backbone": (("runs", "current", "backbone"), "r51", "runs.current.backbone: unknown backbone 'r51'; .* 'r50'?"),
    "direction": (("runs", "current", "direction"), "voc2voc", "unknown direction 'voc2voc'; .* 'voc2nonvoc'?"),
    "own dataset": (("runs", "current", "dataset"), "genrated", "unknown dataset 'genrated'; .* mean 'generated'?"),
    "schedule": (
        ("runs", "current", "schedule"),
        "2x",
        "unknown schedule of profile .*: '2x'; valid: 1x, 3x, 130k; .*",
    ),
    "column": (("runs", "current", "sheduel"), "1x", "runs.current.sheduel: unknown key; .* did you mean 'schedule'?"),
    "no method": (("runs", "current", "method"), ..., "runs.current.method: is missing; .*"),
    "knobs": (("runs", "current", "knobs"), "parms.yaml", "runs.current.knobs: .* did you mean 'params.yaml'?"),
    "dots": (("runs", "sigma0.2"), {}, "the name 'sigma0.2' is not valid; names consist of a-z, 0-9 and _|.*missing.*"),
    "no row": (("runs", "current"), None, "runs.current: expected a mapping, found nothing"),
    "override": (("runs", "contrastmask_c4f2", "overrides"), {"simga": 0.1}, "overrides: .*'simga'; .* 'sigma'?"),
    "bad override": (("runs", "contrastmask_c4f2", "overrides"), {"sigma": 2}, "overrides: knob sigma is 2; valid: .*"),
    "no labels": (("runs", "again"), again("none"), "runs.again: knob pseudo_labels is none; .* name the run that .*"),
    "idle labels": (
        ("runs", "again"),
        again("simformer_s5", "all"),
        "runs.again: knob .* `supervision: all` nothing .*",
    ),
    "labels": (("runs", "again"), again("simformer_5"), "runs.again: unknown run 'simformer_5' to .* 'simformer_s5'?"),
    "labels of more": (
        ("runs", "again"),
        again("simformer_s6"),
        "runs.again: direction is s5, that of simformer_s6, which labels its images, s6; name .*",
    ),
    "labels of others": (
        ("runs", "again"),
        again("simformer_s5", dataset="scenes_study1"),
        "runs.again: dataset is scenes_study1, that of simformer_s5, .*; name a run of the same dataset",
    ),
    "labels of another task": (
        ("runs", "again"),
        again("current", direction="nonvoc2voc"),
        "runs.again: current, which labels its images, is of another task; name another run",
    ),
    "labels of all": (
        ("runs", "again"),
        again("simformer_oracle_s5"),
        "runs.again: simformer_oracle_s5, which labels its images, has the masks of all classes, .*; name another run",
    ),
    "own labels": (("runs", "again"), again("again"), "runs.again: again trains on labels of again; name another run"),
    "labels of a seed": (
        ("runs", "again"),
        AGAIN | {"overrides": again("simformer_s5")["overrides"] | {"seeds": [0, 4]}},
        "runs.again: seed 4 of simformer_s5, which labels .*, is not trained; add it to the seeds of simformer_s5",
    ),
    # tables
    "table run": ((*ROW, "runs"), ["nope"], r"tables.table2.rows\['Baseline'\].runs: unknown run 'nope'; valid: .*"),
    "table column": ((*ROW, "run"), "current", r"rows\['Baseline'\].run: unknown key; valid: .*; did you mean 'runs'?"),
    "same direction": ((*ROW, "runs"), [RUN, "current"], r"\['Baseline'\]: has two runs of one direction; .*"),
    "no title": (("tables", "table2", "title"), ..., "tables.table2.title: is missing; .*"),
    "empty title": (("tables", "table2", "title"), None, "tables.table2.title: is empty; valid: a text"),
    "no rows": (("tables", "table2", "rows"), [], "tables.table2.rows: has 0 items; valid: at least 1"),
    "rows": (("tables", "table2", "rows"), {"a": 1}, "tables.table2.rows: expected a list, found dict"),
    "no label": ((*ROW, "label"), ..., r"tables.table2.rows\[0\].label: is missing; .*"),
    "row": (("tables", "table2", "rows", 1), "current", r"tables.table2.rows\[1\]: expected a mapping, found str"),
    "runs": ((*ROW, "runs"), "current", r"rows\['Baseline'\].runs: expected a list, found str"),
    "empty runs": ((*ROW, "runs"), None, r"rows\['Baseline'\].runs: is empty; valid: a list, or leave it out"),
    "empty note": (("figures", "strip", "note"), None, "strip.note: is empty; valid: a text, or leave it out"),
    "nothing": (ROW, {"label": "Empty"}, r"rows\['Empty'\]: has neither runs nor published; give one of them"),
    "no twin": (("tables", "table2", "published"), ..., "tables.table2.published: is missing; row 'Baseline' names .*"),
    "twin": (
        (*ROW, "published"),
        "t2_basline",
        r"unknown row of contrastmask_table_2: .*; did you mean 't2_baseline'?",
    ),
    "published": (("tables", "table2", "published"), "contrastmask_table2", ".* did you mean 'contrastmask_table_2'?"),
    "gain": (("tables", "oracle", "gain"), "oracle_prior", "unknown published statement .* mean 'oracle_prior_gain'?"),
    # figures
    "figure kind": (("figures", "strip", "kind"), "qualitativ", "strip.kind: is 'qualitativ'; .* mean 'qualitative'?"),
    "minscore": (("figures", "strip", "minscore"), 0.5, "strip.minscore: unknown key; .* did you mean 'min_score'?"),
    "score": (("figures", "strip", "min_score"), 50, "figures.strip.min_score: is 50; valid: at most 1"),
    "no images": (("figures", "strip", "images"), ..., "figures.strip.images: is missing; .*"),
    "no objects": (("figures", "fig4_keys", "objects"), ..., "figures.fig4_keys.objects: is missing; .*"),
    "shows": (("figures", "strip", "shows"), ["nowel"], r"strip.shows\[0\]: is 'nowel'; .* did you mean 'novel'?"),
    "table": (("figures", "strip", "tables"), ["tabel2"], "figures.strip.tables: unknown table 'tabel2'; .* 'table2'?"),
    "figure run": (
        ("figures", "strip", "runs", 0, "run"),
        ...,
        r"figures\..*\.runs\['Mask R-CNN'\].run: is missing; valid: a text",
    ),
    "several data sets": (
        ("runs", RUN, "dataset"),
        "coco2017",
        r"figures.*: its runs are on several data sets \(coco2017, the chosen one\); make it a figure for each",
    ),
    "one run": (("figures", "fig4_keys", "runs"), ..., "a figure of kind keys shows one run, not 3; name one .*"),
    "nothing inside": (
        ("figures", "fig4_keys", "runs", 0, "run"),
        "cam_r50_1x_nonvoc2voc",
        "figures.fig4_keys.runs: method cam of run cam_r50_1x_nonvoc2voc shows nothing of .*; valid: contrastmask",
    ),
    "two directions": (
        ("figures", "fig6_cl_head", "runs", 0, "run"),
        "contrastmask_r50_1x_voc2nonvoc",
        "figures.fig6_cl_head.runs: have the directions nonvoc2voc, voc2nonvoc; .*",
    ),
    "knob": (("figures", "sensitivity_tau", "knob"), "tau_esy", ".knob: unknown knob 'tau_esy'; .* mean 'tau_easy'?"),
    "factor": (
        ("figures", "sensitivity_tau", "knob"),
        "delta",
        ".knob: unknown factor of .* 'delta'; valid: tau_easy.*",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_declaration(repository, mistake):
    keys, value, message = MISTAKES[mistake]
    edit(paths.EXPERIMENTS, keys, value)
    text = refused()
    file, _, rest = text.partition(".yaml: ")
    assert file.startswith("pipeline/experiments/") and (repository / f"{file}.yaml").exists()
    pattern = message.replace("?", r"\?")
    assert re.search(f"{pattern}$", rest), text


def test_a_dataset_is_declared_where_dvc_looks_for_it(repository):
    file = paths.EXPERIMENTS / "mine.yaml"
    WRITER.dump({"datasets": {"mine": DATASET}}, file)
    assert refused() == (
        "pipeline/experiments/mine.yaml: datasets.mine: move it to pipeline/experiments/datasets.yaml, where dvc.yaml "
        "looks for data sets"
    )
    own = {key: DATASET[key] for key in ("profile", "label_set", "train", "validation")} | {"kind": "own"}
    own |= {"images": "x", "annotations": {"path": "x", "sha256": "0" * 64}, "val_fraction": 0.2, "seed": 0}
    WRITER.dump({"datasets": {"mine": own}}, file)
    assert "move it to pipeline/experiments/own_mine.yaml, where dvc.yaml looks" in refused()
    file = file.rename(file.with_name("own_mine.yaml"))
    assert experiments.load().declared_in("mine") == "pipeline/experiments/own_mine.yaml"
    WRITER.dump({"datasets": {"mine": own | {"profile": "full", "iterations": 5}}}, file)
    assert refused().endswith("datasets.mine.iterations: is for profiles whose schedules count iterations, not 'full'")


def test_a_direction_that_initial_weights_need_is_asked_of_every_label_set_that_is_trained_so(repository, monkeypatch):
    labels = replace(label_set("coco"), directions={"nonvoc2voc": {"base": "nonvoc", "novel": "voc"}})
    monkeypatch.setattr(references, "label_set", lambda name: labels if name == "mine" else label_set(name))
    monkeypatch.setattr(references, "label_sets", lambda: [*known(), "mine"])
    edit(paths.EXPERIMENTS, ("datasets", "generated_study1", "label_set"), "mine")
    assert "datasets.generated_study1.profile: profile 'embedded' pre-trains on direction 'boxes', which" in refused()
    edit(paths.EXPERIMENTS, ("datasets", "generated_study1", "profile"), "smoke")
    assert experiments.load()
    edit(paths.EXPERIMENTS, ("runs", RUN, "dataset"), "generated_study1")
    edit(paths.EXPERIMENTS, ("runs", RUN, "direction"), "voc2nonvoc")
    assert f"runs.{RUN}.direction: unknown direction 'voc2nonvoc'; valid: nonvoc2voc" in refused()


# In other files: file, keys, value, and the line.
ELSEWHERE = {
    "knob": ("params.yaml", ("sigma",), 2, r"params.yaml: knob sigma is 2; valid: a number in \(0, 1\]"),
    "true knob": (
        "params.yaml",
        ("min_keys",),
        True,
        "params.yaml: knob min_keys is True; valid: an integer at least 1.*",
    ),
    "choice": ("params.yaml", ("supervision",), "bse", "params.yaml: knob supervision is 'bse'; .* mean 'base'?"),
    "unknown knob": ("params.yaml", ("simga",), 0.2, "params.yaml: unknown knob 'simga'; did you mean 'sigma'?"),
    "no dataset": (
        "params.yaml",
        ("dataset",),
        "generatd",
        "unknown dataset .*'generatd'; .* did you mean 'generated'?.*",
    ),
    "misspelt data set": ("params.yaml", ("datset",), "coco2017", ".* knob 'datset'; did you mean 'dataset'?"),
    "far from any": ("params.yaml", (3,), 0.2, "params.yaml: unknown knob 3"),
    "large seed": ("params.yaml", ("seeds",), [2**32], r".*: knob seeds is .*; valid: .* from 0 to 2\*\*32 - 1"),
    "document": (
        NUMBERS,
        ("tables", 1, "document"),
        "contrastmask_papr",
        r".*\['contrastmask_table_2'\].document: unknown document 'contrastmask_papr'; .* mean 'contrastmask_paper'?",
    ),
    "stated row": (
        NUMBERS,
        ("statements", 2, "minuend"),
        "t1_r50_1x_contrastmusk",
        ".*minuend: unknown row 't1_r50_1x_contrastmusk'; .* mean 't1_r50_1x_contrastmask'?",
    ),
    "pinned": (KNOBS, ("delta",), 0.5, f"{KNOBS}: knob delta is 0.5; valid: .*"),
    "metric": (NUMBERS, (*BASELINE, "mAp"), 1.0, r".*\['t2_baseline'\].*.mAp: unknown metric; .* did you mean 'mAP'?"),
    "percent": (
        NUMBERS,
        (*BASELINE, "mAP"),
        239,
        r".*\['t2_baseline'\].results.nonvoc2voc.mAP: is 239; valid: at most 100",
    ),
    "machine": ("machine.yaml", ("launcher",), "slrum", "machine.yaml: launcher: is 'slrum'; .* did you mean 'slurm'?"),
    "size": ("machine.yaml", ("nodes",), 1.5, "machine.yaml: nodes: is 1.5; valid: a whole number"),
    "slurm": ("machine.yaml", ("slurm", "acount"), "x", "machine.yaml: slurm.acount: unknown key; .* mean 'account'?"),
    "its run": (
        "machine.yaml",
        ("runs", "curent"),
        {"nodes": 2},
        "machine.yaml: runs.curent: unknown run; .* 'current'?",
    ),
}


@pytest.mark.parametrize("mistake", ELSEWHERE)
def test_a_mistake_in_another_file(repository, mistake):
    file, keys, value, message = ELSEWHERE[mistake]
    edit(repository / file, keys, value)
    text = refused()
    assert re.fullmatch(message.replace("?", r"\?"), text), text


# One of each kind that is told end to end, before anything is drawn.
EVERYWHERE = [
    *("section", "dataset key", "image size", "profile", "digest", "architecture", "depth", "url", "flip", "poly"),
    *(
        "cosinee",
        "clipping",
        "precision",
        "its key",
        "true rate",
        "late",
        "preset",
        "method",
        "override",
        "table column",
    ),
    *("twin", "minscore", "score", "one run", "factor"),
]


def run(module, monkeypatch, capsys, *arguments):
    """What a command says, one line, after it has refused to work."""
    monkeypatch.setattr("sys.argv", [module, *arguments])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == 1
    return line.removeprefix("error: ")


@pytest.mark.parametrize("mistake", [*EVERYWHERE, *ELSEWHERE])
def test_it_is_told_before_anything_is_drawn(repository, monkeypatch, capsys, mistake):
    file, keys, value, _ = ELSEWHERE.get(mistake) or (paths.EXPERIMENTS, *MISTAKES[mistake])
    edit(repository / file, keys, value)
    before = sorted(repository.rglob("*"))
    said = refused()
    with pytest.raises(doctor.Problem) as found:
        doctor.check_dataset() if mistake == "no dataset" else doctor.check_declarations()
    assert str(found.value) == said
    commands = {"commands.select": ["table2"], "commands.plan": [], "commands.launch": [], "stages.download": []}
    for module, arguments in commands.items():
        if not (file == "machine.yaml" and module == "stages.download" or mistake == "no dataset" and arguments):
            assert run(module, monkeypatch, capsys, *arguments) == said, module
    assert sorted(repository.rglob("*")) == before


def places(content, keys=()):
    """Keys that lead to each value of a file."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*keys, key)
        yield from places(value, (*keys, key))


ODD = (None, True, -1, 2.5, "x", "", [], {}, [1], {"a": 1}, ["x", "x"], float("inf"), {"1": {}}, [[]], [None])


def test_whatever_stands_anywhere_is_right_or_one_line(repository):
    files = {path: path.read_text() for path in sorted(paths.EXPERIMENTS.glob("*.yaml"))}
    choices = [(path, keys) for path in files for keys in places(WRITER.load(path))]
    draw = random.Random(0)
    for _ in range(60):
        path, keys = draw.choice(choices)
        edit(path, keys, draw.choice(ODD))
        try:
            experiments.load()
        except ExperimentError as error:
            assert str(error).startswith("pipeline/experiments/") and "\n" not in str(error)
        path.write_text(files[path])


@pytest.mark.parametrize("value", [["generated"], {"a": 1}, None, 3])
def test_a_data_set_is_a_name(repository, value):
    edit(paths.PARAMS, ("dataset",), value)
    assert refused().startswith(f"unknown dataset (params.yaml: dataset): {value!r}; valid: ")


def test_a_misspelt_section_is_named_and_not_the_one_that_lacks(repository):
    file = paths.EXPERIMENTS / "datasets.yaml"
    file.write_text(file.read_text().replace("datasets:\n", "dataset:\n"))
    assert refused().startswith("pipeline/experiments/datasets.yaml: dataset: unknown key; ")
    assert refused().endswith("did you mean 'datasets'?")


def test_ids_of_published_numbers_are_unique_over_all_papers(repository):
    shutil.copy(paths.PUBLISHED / "contrastmask.yaml", paths.PUBLISHED / "other.yaml")
    assert refused().startswith(
        "pipeline/experiments/published/other.yaml: tables['contrastmask_table_1']: declared in "
    )


RECIPES = {
    "nothing": ("", "not valid YAML: .*"),
    "no YAML": ("[{id: 1", "recipes.yaml line [12]: not valid YAML: .*"),
    "no row": ("[a]", r"\[0\]: expected a mapping, found str"),
    "no knob": ("[{id: D1, paper: 1, released: 1, description: x}]", r"\['D1'\].knob: is missing; .*"),
    "knob": ("[{id: D1, knob: cl_jion, paper: 1, released: 1, description: x}]", ".*'cl_jion'; .* 'cl_join'?"),
    "column": (
        "[{id: D1, knob: cl_join, paper: 1, relesed: 1, description: x}]",
        ".*relesed: unknown key; .* 'released'?",
    ),
    "lacking": ("[{id: D1, knob: cl_join, paper: 1, description: x}]", r".*\['D1'\].released: is missing; .*"),
}


@pytest.mark.parametrize("mistake", RECIPES)
def test_a_mistake_in_a_file_of_presets(tmp_path, monkeypatch, mistake):
    text, message = RECIPES[mistake]
    file = tmp_path / "mine" / "recipes.yaml"
    file.parent.mkdir()
    file.write_text(text)
    room = replace(methods.method("contrastmask"), recipes=file)
    monkeypatch.setattr(methods, "method", lambda name: room)
    with pytest.raises(ExperimentError) as error:
        references.presets()
    assert str(error.value).startswith("mine/recipes.yaml")
    assert re.search(f"{message.replace('?', '[?]')}$", str(error.value)), error.value


DAMAGED = {
    "empty": "",
    "no mapping": "a",
    "broken": "{",
    "binary": "\x00\x01",
    "no choice": "selected: {chosen: }",
    "a number": "selected: {chosen: 3}",
    "nested": "selected: {chosen: [[1]]}",
    "a text": "selected: {chosen: table4}",
    "no seeds": "selected: {chosen: [table2]}",
    "bad seeds": "selected: {chosen: [table2], seeds: [zero]}",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_selection_is_one_line_and_select_mends_it(repository, monkeypatch, damage):
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    chosen = experiments.selected()["chosen"]
    paths.SELECTION.write_text(DAMAGED[damage])
    with pytest.raises(ExperimentError) as error:
        experiments.selected()
    assert "selection.yaml" in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setattr("sys.argv", ["select"])
    importlib.import_module("commands.select").main()
    assert experiments.selected()["chosen"] == chosen


def test_a_selection_that_nothing_remembers_is_chosen_anew(repository, monkeypatch, capsys):
    paths.SELECTION.write_text("")
    monkeypatch.setenv("GIT_DIR", str(repository / "none"))
    said = run("commands.select", monkeypatch, capsys)
    command = re.search(r"`python -m (commands.select) (\w+)`", said)
    monkeypatch.setattr("sys.argv", list(command.groups()))
    importlib.import_module("commands.select").main()
    assert experiments.selected()["chosen"] == [command[2]]


def test_of_a_merge_conflict_in_the_selection_the_tables_of_both_sides_stay(repository):
    paths.SELECTION.write_text("selected:\n  chosen:\n<<<<<<< HEAD\n  - table4\n=======\n  - table2\n>>>>>>> x\n")
    assert experiments.chosen_tables(experiments.load()) == ["table2", "table4"]


def test_what_is_declared_is_right():
    declared = experiments.load()
    assert declared.run("current").pinned is False and experiments.load() == declared
    experiments.load().runs.clear()
    assert experiments.load() == declared


def test_kinds_and_choices_are_those_of_the_code():
    kinds = {tag for model in schema._Figure.__subclasses__() for tag in strict.choices(model, "kind")}
    assert kinds == set(KINDS)
    assert set(strict.choices(schema.TrainingSection, "precision")) == set(DTYPES)
    declared = {name for name in POLICIES if " from " not in name}  # without methods' own
    assert set(strict.choices(schema.TrainingSection, "lr_policy")) == declared
    assert strict.choices(schema.Generated, "version") == list(scenes.VERSIONS)
