"""What each section of each declaration may say.

A value that code could ignore, or would find wrong after hours, is refused when the files are read. What a name refers
to is looked up in `references.py`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from pipeline.declaration.strict import (
    Count,
    Fraction,
    Name,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Strict,
    Text,
    matching,
    one_of,
    options,
    refused,
    shown,
)

MD5 = matching("[0-9a-fA-F]{32}", "32 hexadecimal digits in quotes")
SHA1 = matching("[0-9a-fA-F]{40}", "40 hexadecimal digits in quotes")
SHA256 = matching("[0-9a-fA-F]{64}", "64 hexadecimal digits in quotes")
Variable = matching("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")
Checkpoint = matching(r"(https?|file)://\S+", "the URL of a checkpoint (http, https, file)")


# Initial weights, of a profile or of a data set instead


class Downloaded(Strict):
    """Initial weights: the URL of a classifier for each backbone."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Checkpoint]

    kind: Literal["download"]


def in_order(schedule, unit):
    """The schedule, if its milestones ascend and lie within its length, which is the field `unit`."""
    length = getattr(schedule, unit)
    if (
        schedule.milestones != sorted(set(schedule.milestones))
        or schedule.milestones
        and schedule.milestones[-1] >= length
    ):
        raise refused(
            f"is {schedule.milestones}; valid: whole {unit} in ascending order, above 0 and below {length}",
            "milestones",
        )
    return schedule


class Classifier(Strict):
    """The backbone's first training, to name objects that are cut out by their boxes."""

    crop_size: Annotated[int, Field(ge=32)]
    batch_size: Count
    iterations: Count
    lr: Positive


class Pretrained(Strict):
    """Initial weights: of a detector that is trained without masks, after its backbone if `classifier` says how."""

    kind: Literal["pretrain"]
    classifier: Classifier | None = None
    direction: Name
    iterations: Count
    milestones: list[Count] = []
    lr: Positive
    seed: Seed

    @model_validator(mode="after")
    def _in_order(self):
        return in_order(self, "iterations")


class Random(Strict):
    """No initial weights."""

    kind: Literal["random"]


class FromCheckpoint(Strict):
    """Initial weights: a trained detector, of which each run takes what fits."""

    kind: Literal["checkpoint"]
    file: Text = Field(description="give the path of a checkpoint")
    sha256: SHA256 = Field(description="give the SHA-256 of the file, which `sha256sum FILE` prints")
    names: Name | None = Field(None, description="the method whose authors' code wrote it, if not ContrastMask's")


InitialWeights = one_of("kind", Downloaded, Pretrained, Random, FromCheckpoint)


# Datasets


Folder = matching("[A-Za-z0-9_-]+", "the name of a folder")


class _Dataset(Strict):
    label_set: Name = Field(description="a file of pipeline/declaration/label_sets, such as coco")
    train: Folder = Field(description="the folder of its training images, such as train2017")
    validation: Folder = Field(description="the folder of its validation images, such as val2017")
    profile: Name = Field(description="the entry of `profiles` that says at which scale it is run")
    paper_data: bool = False
    initial_weights: InitialWeights | None = Field(None, description="instead of the profile's")


class Generated(_Dataset):
    """Images drawn by a program."""

    kind: Literal["generated"]
    version: Literal[1, 2]
    seed: Seed
    train_images: Annotated[int, Field(ge=1, lt=1_000_000)]
    val_images: Annotated[int, Field(ge=1, lt=1_000_000)]
    image_size: Annotated[int, Field(ge=64, le=1024)]
    looks: Annotated[dict[Text, Text], Field(min_length=1)] | None = None


class Archive(Strict):
    """What an archive must be: its size in bytes, and at least one checksum."""

    bytes: Count
    md5: MD5 | None = None
    sha256: SHA256 | None = None

    @model_validator(mode="after")
    def _verifiable(self):
        if self.md5 is None and self.sha256 is None:
            raise refused("has no checksum; give md5, sha256 or both")
        return self


def _inside(name):
    if re.search(r"^[A-Za-z]:|^/|\\|://|(^|/)\.{0,2}(/|$)", name):
        raise refused(f"the archive {name!r} leaves the base URL; give a plain relative path")
    return name


class Coco(_Dataset):
    """Archives of images and annotations in COCO's format."""

    kind: Literal["coco"]
    base_url: Text = Field(description="give an http(s):// or file:// URL or a folder")
    archives: Annotated[dict[Annotated[str, AfterValidator(_inside)], Archive], Field(min_length=1)] = Field(
        description="give {relative url: {bytes:, md5: and/or sha256:}}"
    )
    root_env: Variable | None = None
    keep_archives: bool = True
    train_images: Count | None = None


class OfficialArchive(Strict):
    """What is known of an archive that its owner publishes without saying more: maybe nothing."""

    bytes: Count | None = None
    md5: MD5 | None = None
    sha1: SHA1 | None = None
    sha256: SHA256 | None = None


class LabelMaps(_Dataset):
    """Official archives of images and label maps."""

    kind: Literal["label_maps"]
    layout: Literal["coco_stuff_10k", "ade20k"]
    base_url: Text = Field(description="give an http(s):// or file:// URL or a folder")
    archives: Annotated[
        dict[Annotated[str, AfterValidator(_inside)], OfficialArchive], Field(min_length=1, max_length=1)
    ] = Field(description="give {relative url: {}} of one archive; bytes, sha256, sha1 and md5 are compared if given")
    keep_archives: bool = True
    train_images: Count | None = Field(None, description="how many there have to be")
    val_images: Count | None = Field(None, description="how many there have to be")
    list_sha256: dict[Folder, SHA256] = {}


class DrawnMaps(_Dataset):
    """Drawn stuff and things, with a class for every pixel."""

    kind: Literal["drawn_maps"]
    version: Literal[1]
    seed: Seed
    train_images: Annotated[int, Field(ge=1, lt=1_000_000)]
    val_images: Annotated[int, Field(ge=1, lt=1_000_000)]
    image_size: Annotated[int, Field(ge=32, le=1024)]


class AnnotationFile(Strict):
    """A file of a user, or the files of a folder, as they were when they were declared."""

    path: Text
    sha256: SHA256


class Own(_Dataset):
    """A user's own images, in place, and annotations in COCO's format: one file that is parted, or two."""

    kind: Literal["own"]
    images: Text
    annotations: AnnotationFile
    val_annotations: AnnotationFile | None = None
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: Seed | None = None
    keep_rectangles: bool = False
    iterations: Count | None = None  # of schedule 1x, the others in proportion; instead of the profile's
    batch_size: Count | None = None

    @model_validator(mode="after")
    def _parted_or_given(self):
        if self.val_annotations is None and (self.val_fraction is None or self.seed is None):
            raise refused("is missing; give it, or val_fraction and seed to set images apart", "val_annotations")
        if self.val_annotations is not None and self.val_fraction is not None:
            raise refused("is for one file of annotations; leave it out beside val_annotations", "val_fraction")
        return self


Colour = matching("#[0-9a-f]{6}", "a colour in quotes, such as '#804080'")


class OwnMaps(_Dataset):
    """A user's own images and label maps, in place; sides are drawn, or told by folders."""

    kind: Literal["own_maps"]
    images: Text
    maps: AnnotationFile
    labels: AnnotationFile | None = None
    unlabelled: list[Annotated[int, Field(ge=0, le=65535)] | Colour] = []
    colours: dict[Text, Colour] = {}
    map_ending: Text | None = None
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: Seed | None = None
    iterations: Count | None = None
    batch_size: Count | None = None

    @model_validator(mode="after")
    def _parted_whole(self):
        if (self.val_fraction is None) != (self.seed is None):
            lacking = "seed" if self.seed is None else "val_fraction"
            raise refused("is missing; give both of val_fraction and seed, or none where folders tell", lacking)
        return self


Dataset = one_of("kind", Generated, Coco, Own, OwnMaps, LabelMaps, DrawnMaps)
OWN = ("own", "own_maps")  # kinds that `commands.own` declares, each in a file of its own
OF_MAPS = ("label_maps", "drawn_maps", "own_maps")  # kinds that have a class for every pixel instead of objects


def holds(kind):
    """What a kind of dataset holds, as `pipeline.tasks.Task.reads`."""
    return "maps" if kind in OF_MAPS else "objects"


# Label sets

Group = Text | list[Text]  # the name of a group, or class names


class Class(Strict):
    id: Natural
    name: Text
    supercategory: str = ""


class Rest(Strict):
    """All classes but those of another group."""

    without: Text


class Direction(Strict):
    """Which classes have masks (base) and which boxes only (novel)."""

    base: Group
    novel: Group


class LabelSet(Strict):
    """A file of pipeline/declaration/label_sets/."""

    title: Text
    classes: Annotated[list[Class], Field(min_length=1)]
    groups: dict[Name, list[Text] | Rest] = {}
    directions: Annotated[dict[Name, Direction], Field(min_length=1)]


# Profiles


class _Stages(Strict):
    """Columns of MMDetection's residual networks."""

    num_stages: Annotated[int, Field(ge=1, le=4)] = 4
    base_channels: Count = 64
    stem_channels: Count = 64
    out_indices: list[Annotated[int, Field(ge=0, le=3)]] = [0, 1, 2, 3]
    strides: list[Count] = [1, 2, 2, 2]
    dilations: list[Count] = [1, 1, 1, 1]
    frozen_stages: Annotated[int, Field(ge=-1, le=4)] = -1
    norm_eval: bool = True
    style: Literal["pytorch", "caffe"] = "pytorch"

    @model_validator(mode="after")
    def _as_many_as_stages(self):
        for key in ("strides", "dilations"):
            if len(getattr(self, key)) != self.num_stages:
                raise refused(f"has {len(getattr(self, key))} items; valid: {self.num_stages}, as num_stages", key)
        taken = self.out_indices
        if not taken or taken != sorted(set(taken)) or taken[-1] >= self.num_stages:
            valid = f"different numbers of stages in ascending order, below num_stages ({self.num_stages})"
            raise refused(f"is {shown(taken)}; valid: {valid}", "out_indices")
        return self


class ResNet(_Stages):
    type: Literal["ResNet"]
    depth: Literal[18, 34, 50, 101, 152]


class ResNeXt(_Stages):
    type: Literal["ResNeXt"]
    depth: Literal[50, 101, 152]
    groups: Count = 1
    base_width: Count = 4


BackboneModel = one_of("type", ResNet, ResNeXt)


Scale = Annotated[list[Count], Field(min_length=2, max_length=2)]


class Images(Strict):
    """Sizes of the network's input, `[long, short]` sides in pixels; empty: images keep theirs."""

    train_scales: Annotated[list[Scale], Field(min_length=2, max_length=2)] | None
    test_scale: Scale | None
    size_divisor: Count
    scale_steps: Count | None = Field(
        None, description="of how many short sides between the two one is drawn (label maps)"
    )
    crop_size: Scale | None = Field(None, description="[height, width] that label maps are trained with")
    label_scales: Annotated[list[Scale], Field(min_length=1)] | None = Field(
        None, description="of views, each also mirrored, whose mean scores label training images (label maps)"
    )
    colour_jitter: bool = Field(False, description="whether label maps are trained with changed colours")


class SGD(Strict):
    type: Literal["SGD"]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: NonNegative = 0.0


class AdamW(Strict):
    type: Literal["AdamW"]
    lr: Positive
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    weight_decay: NonNegative = 0.01


class TrainingSection(Strict):
    may_be_empty = ("grad_clip",)

    batch_size: Count
    images_per_gpu: Count
    lr_batch_size: Count | None
    precision: Literal["fp32", "bf16", "fp16"]
    optimizer: one_of("type", SGD, AdamW)
    lr_policy: Literal["step", "cosine", "poly"]
    warmup_iterations: Natural
    grad_clip: Positive | None = None
    log_interval: Count
    checkpoint_interval: Count


class Schedule(Strict):
    """Length of a training, in one of two units, and where the learning rate falls.

    A scale-down in iterations `stands_for` a number of passes over the training set: what a method states in passes, as
    the warm-up of its losses, takes the same share of it.
    """

    epochs: Count | None = None
    iterations: Count | None = None
    stands_for: Count | None = None
    milestones: list[Count]

    @model_validator(mode="after")
    def _in_order(self):
        units = [unit for unit in ("epochs", "iterations") if getattr(self, unit) is not None]
        if len(units) != 1:
            raise refused(
                f"has {' and '.join(units) or 'no length'}; valid: milestones, and either epochs or iterations"
            )
        if self.stands_for and self.epochs:
            raise refused("is for a length in iterations; epochs are passes already", "stands_for")
        return in_order(self, units[0])


class Profile(Strict):
    """The scale at which a dataset is run; `reads` as of the tasks whose data sets it is for.

    `instead` has, by knob and value that a row overrides it with, the value that stands for it at this scale.
    """

    reads: Literal["objects", "maps"] = "objects"
    architecture: dict[Name, dict[str, Any]]
    knobs: dict[str, Any] = {}
    instead: dict[str, dict[int | float | str, Any]] = {}
    backbones: dict[Name, BackboneModel]
    initial_weights: InitialWeights
    images: Images
    training: TrainingSection
    schedules: dict[Name, Schedule]


# Runs and what shows them


class Backbone(Strict):
    label: Text


class Preset(Strict):
    """Columns that rows share through YAML's `<<`."""

    method: Name | None = None
    backbone: Name | None = None
    schedule: Name | None = None
    direction: Name | None = None
    knobs: Text | None = None
    dataset: Name | None = None
    overrides: dict[str, Any] = {}


class Run(Strict):
    """One training; `knobs` is the file it follows, `overrides` are knobs of this row alone.

    Without a `dataset` it is made on the chosen one.
    """

    method: Name
    backbone: Name
    schedule: Name
    direction: Name
    knobs: Text
    overrides: dict[str, Any] = {}
    dataset: Name | None = None


class Row(Strict):
    """A line of a table: runs that are measured, a published row beside them, or both.

    The others of its table are compared with the row that is its `reference`. `layers` are the convolutions of the mask
    head as the paper counts them.
    """

    label: Text
    runs: Annotated[list[Name], Field(min_length=1)] | None = None
    published: Text | None = None
    reference: bool = False
    layers: Count | None = None

    @model_validator(mode="after")
    def _shows_something(self):
        if self.runs is None and self.published is None:
            raise refused("has neither runs nor published; give one of them")
        if self.reference and self.runs is None:
            raise refused("is true; valid: in a row with runs alone", "reference")
        return self


class Table(Strict):
    title: Text
    published: Text | None = None
    gain: Text | None = None
    rows: Annotated[list[Row], Field(min_length=1)]

    @model_validator(mode="after")
    def _published_as_its_rows(self):
        for row in self.rows:
            if row.published is not None and self.published is None:
                raise refused(f"is missing; row {row.label!r} names a row of that published table", "published")
        if len(references := [repr(row.label) for row in self.rows if row.reference]) > 1:
            raise refused(f"has several references, {' and '.join(references)}; leave one", "rows")
        return self


class Shown(Strict):
    label: Text
    run: Name


class _Figure(Strict):
    title: Text
    tables: Annotated[list[Name], Field(min_length=1)]
    runs: Annotated[list[Shown], Field(min_length=1)] | None = None
    note: Text | None = None


class Chart(_Figure):
    kind: Literal["loss_curves", "category_ap", "base_novel_gap"]


class Order(_Figure):
    """Of all its `tables`, and of no run by name."""

    kind: Literal["order"]
    runs: None = None


class Qualitative(_Figure):
    kind: Literal["qualitative"]
    images: Count
    min_score: Fraction
    shows: Annotated[list[Literal["base", "novel"]], Field(min_length=1)] = ["base", "novel"]
    skip: Natural = 0
    across: Count = 1


class SameObjects(_Figure):
    kind: Literal["same_objects"]
    objects: Count
    min_score: Fraction


class NovelResults(_Figure):
    kind: Literal["novel_results"]
    images: Count
    min_score: Fraction
    across: Count
    skip: Natural = 0


class Inside(_Figure):
    kind: Literal["partition", "keys", "shapes", "maps"]
    objects: Count


class Transfer(_Figure):
    kind: Literal["transfer"]


class Sensitivity(_Figure):
    """Of the groups of categories that are named; of the task's main one by default."""

    kind: Literal["sensitivity"]
    knob: Text
    axis: Text
    groups: Annotated[list[Text], Field(min_length=1)] | None = None


class SplitMaps(_Figure):
    kind: Literal["split_maps"]
    images: Count


class NovelShare(_Figure):
    """Of the rows of its first table, whatever their directions."""

    kind: Literal["novel_share"]
    runs: None = None


Figure = one_of(
    "kind", Chart, Order, Qualitative, SameObjects, NovelResults, Inside, Transfer, Sensitivity, SplitMaps, NovelShare
)


class Declaration(Strict):
    """The sections of the files of pipeline/experiments/, merged."""

    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]
    backbones: Annotated[dict[Name, Backbone], Field(min_length=1)]
    profiles: Annotated[dict[Name, Profile], Field(min_length=1)]
    presets: dict[Name, Preset] = {}
    runs: dict[Name, Run]
    tables: dict[Name, Table]
    figures: dict[Name, Figure]


# Published numbers

Id = matching("[A-Za-z0-9_]+", "letters, digits and _")
Number = Annotated[float, Field(allow_inf_nan=False)]  # in the unit of its metric; `references.py` has its range
Results = dict[str, dict[str, Number | None]]


class Document(Strict):
    title: Text


class Tolerance(Strict):
    document: Text
    quantity: Text
    plus_minus: NonNegative
    unit: Text = Field(description="percentage_points, or the unit of the quantity such as px")


class PublishedRow(Strict):
    id: Id
    method: Text
    backbone: Text
    schedule: Text
    source: Literal["ours", "baseline", "cited"]
    factors: dict[str, Any]
    results: Results


class PublishedTable(Strict):
    id: Id
    document: Text
    number: Count | None
    caption: Text
    settings: Annotated[list[Text], Field(min_length=1)]
    metrics: Annotated[list[Text], Field(min_length=1)]
    rows: Annotated[list[PublishedRow], Field(min_length=1)]

    @model_validator(mode="after")
    def _results_of_its_columns(self):
        for at, row in enumerate(self.rows):
            if row.id in [other.id for other in self.rows[:at]]:
                raise refused("is the id of another row; ids are unique", "rows", at, "id")
            for setting, numbers in row.results.items():
                if setting not in self.settings:
                    raise refused(f"unknown setting{options(setting, self.settings)}", "rows", at, "results", setting)
                for metric in numbers:
                    if metric not in self.metrics:
                        where = ("rows", at, "results", setting, metric)
                        raise refused(f"unknown metric{options(metric, self.metrics)}", *where)
        return self


class Statement(Strict):
    may_be_empty = ("backbone", "schedule")

    id: Id
    document: Text
    claim: Text
    setting: Text | None
    delta: dict[str, float] | None = None
    value: dict[str, Number] | None = None
    minuend: Text | None = None
    subtrahend: Text | None = None
    row: Text | None = None
    backbone: Text | None = None
    schedule: Text | None = None


class Published(Strict):
    """A file of pipeline/experiments/published/."""

    schema_version: Literal[1]
    documents: dict[Id, Document]
    tolerances: list[Tolerance]
    tables: Annotated[list[PublishedTable], Field(min_length=1)]
    statements: list[Statement]

    @model_validator(mode="after")
    def _of_known_documents_and_rows(self):
        rows = [row.id for table in self.tables for row in table.rows]
        for section in ("tolerances", "tables", "statements"):
            for at, entry in enumerate(getattr(self, section)):
                if entry.document not in self.documents:
                    text = f"unknown document {entry.document!r}{options(entry.document, self.documents)}"
                    raise refused(text, section, at, "document")
        for at, statement in enumerate(self.statements):
            for key in ("minuend", "subtrahend", "row"):
                if (name := getattr(statement, key)) is not None and name not in rows:
                    raise refused(f"unknown row {name!r}{options(name, rows)}", "statements", at, key)
        return self


# Differences between the presets of a method's knobs


class Difference(Strict):
    """A row of a recipes file; it has a column more for each preset.

    Of a row that is `of_data` the value that a profile names stands under every preset.
    """

    model_config = ConfigDict(extra="allow")

    id: Text
    knob: Text | None
    description: Text
    note: str = ""
    of_data: bool = False


# The machine


def _text_or_whole(value):
    if isinstance(value, str) or isinstance(value, int) and not isinstance(value, bool):
        return value
    raise refused(f"is {shown(value)}; valid: a text or a whole number")


Setting = Annotated[Any, AfterValidator(_text_or_whole)]
Lines = list[str]


class Size(Strict):
    """What a training takes where it is not what all take."""

    nodes: Count | None = None
    processes: Count | None = None


class Slurm(Strict):
    partition: Setting | None = None
    account: Setting | None = None
    time: Setting | None = None
    gres: Setting | None = None
    cpus_per_task: Count | None = None
    mem: Setting | None = None
    extra: Lines = []
    prologue: Lines = []
    warning_seconds: Count = 120
    restarts: Count = 50
    poll_seconds: Count = 20


class Machine(Strict):
    """machine.yaml: where trainings run and on how many processors.

    Attributes:
        launcher: 'local' or 'slurm'.
        jobs: trainings at a time; None: the launcher decides.
        nodes, processes: of one training: nodes, and processes (GPUs) on each.
        runs: run -> where they differ.
        slurm: for `pipeline.launching.launchers.slurm`.
    """

    launcher: Literal["local", "slurm"] = "local"
    jobs: Count | None = None
    nodes: Count = 1
    processes: Count = 1
    runs: dict[Name, Size] = {}
    slurm: Slurm = Slurm()
