"""What each section of each declaration may say, and one line for what does not fit.

Strict: `true` is no number, text is none, unknown keys are refused. A value that code could ignore, or would find wrong
after hours, is refused when the files are read. What a name refers to is looked up in `references.py`.
"""

import difflib
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.errors import ExperimentError

LISTED = 12  # valid values that a line names; of more, those that are nearest
NEAREST = 3


class Strict(BaseModel):
    """A mapping with just these keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value):
        """Say which keys there are, which `extra="forbid"` does not; a misspelt one before the one it leaves out."""
        if not isinstance(value, dict):
            return value
        for key in value:
            if key not in cls.model_fields and cls.model_config["extra"] == "forbid":
                raise refused(f"unknown key{options(key, cls.model_fields)}", key)
        for key, field in cls.model_fields.items():
            if key not in value and field.is_required():
                raise refused(f"is missing; {_valid(cls, key)}", key)
        return value


def refused(text, *below):
    """An error for a validator to raise: what is wrong, and with which key below the value that is validated."""
    return PydanticCustomError("refused", "{text}", {"text": text, "below": below})


def options(wrong, valid):
    """`; valid: a, b, c; did you mean 'b'?` for a value that is none of the valid ones."""
    valid = list(map(str, valid))
    near = difflib.get_close_matches(wrong, valid, n=1, cutoff=0.5) if isinstance(wrong, str) else []
    shown = valid
    if len(valid) > LISTED:
        shown = [*difflib.get_close_matches(str(wrong), valid, n=NEAREST, cutoff=0), f"... ({len(valid)} in all)"]
    return f"; valid: {', '.join(shown)}" + (f"; did you mean {near[0]!r}?" if near else "")


WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true, false",
    list: "a list",
    dict: "a mapping",
}


def choices(model, key):
    """The values of a key that is a choice."""
    return [value for value in get_args(model.model_fields[key].annotation) if isinstance(value, str | int)]


def _valid(model, key):
    """What to give for a key that is missing."""
    field = model.model_fields[key]
    if field.description:
        return field.description
    if values := choices(model, key):
        return f"valid: {', '.join(map(str, values))}"
    kinds = [get_origin(kind) or kind for kind in get_args(field.annotation) or (field.annotation,)]
    kind = get_origin(field.annotation) or kinds[0]
    return f"valid: {WORDS.get(kind) or WORDS.get(kinds[0], 'a mapping')}"


def check(kind, content, source, where=()):
    """Validate content against a model or a type.

    Args:
        kind: a `Strict` model, or any type that pydantic knows.
        content: plain data, as read from YAML.
        source: name of the file, or a function that tells it from the keys that lead to a value.
        where: keys that lead to `content` in that file.

    Returns:
        The model. Whoever only wants to know that it fits keeps the plain data.

    Raises:
        ExperimentError: one line: file, dotted field, what is wrong, what is valid, a suggestion.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        keys = _keys_to(first["loc"], content) + list(first.get("ctx", {}).get("below", ()))
        found = _follow(content, keys)
        text = _wording(first, found)
        file = source((*where, *keys)) if isinstance(source, Callable) else source
    raise ExperimentError(f"{file}: {dotted((*where, *_named(content, keys)))}: {text}")


def dotted(keys):
    """`tables.table2.rows['Baseline'].runs[0]` for the keys that lead to a value; a list's items are in brackets."""
    text = ""
    for key in keys:
        text += key if isinstance(key, str) and key.startswith("[") else f".{key}"
    return text.removeprefix(".")


def _keys_to(loc, content):
    """pydantic's location without the tags of unions, which are no keys of the content."""
    keys = []
    for part in loc:
        here = _follow(content, keys)
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)
        if inside:
            keys.append(part)
    return keys


def _named(content, keys):
    """Keys as they are shown: an item of a list by its label or id where it has one."""
    for at, key in enumerate(keys):
        if isinstance(_follow(content, keys[:at]), list):
            item = _follow(content, keys[: at + 1])
            names = [
                item[name] for name in ("label", "id") if isinstance(item, dict) and isinstance(item.get(name), str)
            ]
            yield f"[{names[0]!r}]" if names else f"[{key}]"
        else:
            yield str(key)


def _follow(content, keys):
    for key in keys:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return None
    return content


TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true, false",
}
CONTAINERS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _wording(error, found):
    kind, context = error["type"], error.get("ctx", {})
    if kind == "refused":
        return context["text"]
    if "[key]" in error["loc"]:
        name = error["input"]
        if isinstance(name, str):
            return f"the name {name!r} is not valid; names consist of a-z, 0-9 and _"
        return f"the name {name!r} is no text; put it in quotes"
    if kind in CONTAINERS:
        return f"expected {CONTAINERS[kind]}, found {'nothing' if found is None else type(found).__name__}"
    if kind in TYPES:
        return f"is {shown(found)}; valid: {TYPES[kind]}"
    if kind == "literal_error":
        expected = re.findall(r"'([^']*)'|(-?\d+)", context["expected"])
        return f"is {shown(found)}{options(found, [text or number for text, number in expected])}"
    for bound, words in BOUNDS.items():
        if bound in context:
            limit = f"{context[bound]:g}" if isinstance(context[bound], float) else context[bound]
            return f"is {shown(found)}; valid: {words} {limit}"
    if kind in ("too_short", "too_long"):
        words, length = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        return f"has {context['actual_length']} items; valid: {words} {context[length]}"
    if kind == "string_too_short":
        return "is empty; give a text"
    return f"is {shown(found)}; {error['msg'].lower()}"


def shown(value):
    """A value as the file spells it, no longer than fits in a line."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_of(key, *models):
    """A mapping of which one key, a choice in each model, says which model it has to fit."""
    tags = [tag for model in models for tag in choices(model, key)]

    def known(value):
        if isinstance(value, dict):
            if value.get(key) is None:
                raise refused(f"is missing; valid: {', '.join(tags)}", key)
            if value[key] not in tags:
                raise refused(f"is {shown(value[key])}{options(value[key], tags)}", key)
        return value

    union = models[0]
    for model in models[1:]:
        union |= model
    return Annotated[Annotated[union, Field(discriminator=key)], BeforeValidator(known)]


def _matching(pattern, words):
    def matches(value):
        if not re.fullmatch(pattern, value):
            raise refused(f"is {shown(value)}; valid: {words}")
        return value

    return Annotated[str, AfterValidator(matches)]


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
MD5 = _matching("[0-9a-fA-F]{32}", "32 hexadecimal digits in quotes")
SHA256 = _matching("[0-9a-fA-F]{64}", "64 hexadecimal digits in quotes")
Variable = _matching("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")
Checkpoint = _matching(r"(https?|file)://\S+", "the URL of a checkpoint (http, https, file)")


# Datasets


class _Dataset(Strict):
    profile: Name = Field(description="the entry of `profiles` that says at which scale it is run")
    paper_data: bool = False


class Generated(_Dataset):
    """Images drawn by a program."""

    kind: Literal["generated"]
    version: Literal[1]
    seed: Seed
    train_images: Annotated[int, Field(ge=1, lt=1_000_000)]
    val_images: Annotated[int, Field(ge=1, lt=1_000_000)]
    image_size: Annotated[int, Field(ge=64, le=1024)]


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
    if (
        name.startswith("/")
        or "\\" in name
        or "://" in name
        or not all(p and p not in (".", "..") for p in name.split("/"))
    ):
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


Dataset = _one_of("kind", Generated, Coco)


# Label sets


class Direction(Strict):
    """Which categories have masks (base) and which boxes only (novel): names of groups, or lists of category names."""

    base: Any
    novel: Any


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
            if key in self.model_fields_set and len(getattr(self, key)) != self.num_stages:
                raise refused(f"has {len(getattr(self, key))} items; valid: {self.num_stages}, as num_stages", key)
        return self


class ResNet(_Stages):
    type: Literal["ResNet"]
    depth: Literal[18, 34, 50, 101, 152]


class ResNeXt(_Stages):
    type: Literal["ResNeXt"]
    depth: Literal[50, 101, 152]
    groups: Count = 1
    base_width: Count = 4


BackboneModel = _one_of("type", ResNet, ResNeXt)


class Downloaded(Strict):
    """Initial weights: the URL of a classifier for each backbone."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Checkpoint]

    kind: Literal["download"]


class Pretrained(Strict):
    """Initial weights: those of a detector that is trained without masks."""

    kind: Literal["pretrain"]
    direction: Name
    iterations: Count
    lr: Positive
    seed: Seed


class Random(Strict):
    """No initial weights."""

    kind: Literal["random"]


InitialWeights = _one_of("kind", Downloaded, Pretrained, Random)
Scale = Annotated[list[Count], Field(min_length=2, max_length=2)]


class Images(Strict):
    """Sizes of the network's input, `[long, short]` sides in pixels; empty: images keep theirs."""

    train_scales: Annotated[list[Scale], Field(min_length=2, max_length=2)] | None
    test_scale: Scale | None
    size_divisor: Count


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
    batch_size: Count
    images_per_gpu: Count
    lr_batch_size: Count | None
    precision: Literal["fp32", "bf16", "fp16"]
    optimizer: _one_of("type", SGD, AdamW)
    lr_policy: Literal["step", "cosine"]
    warmup_iterations: Natural
    log_interval: Count
    checkpoint_interval: Count


class Schedule(Strict):
    """Length of a training, in one of two units, and where the learning rate falls."""

    epochs: Count | None = None
    iterations: Count | None = None
    milestones: list[Count]

    @model_validator(mode="after")
    def _in_order(self):
        units = [unit for unit in ("epochs", "iterations") if getattr(self, unit) is not None]
        if len(units) != 1:
            raise refused(
                f"has {' and '.join(units) or 'no length'}; valid: milestones, and either epochs or iterations"
            )
        length = getattr(self, units[0])
        if self.milestones != sorted(set(self.milestones)) or self.milestones and self.milestones[-1] >= length:
            raise refused(
                f"is {self.milestones}; valid: whole {units[0]} in ascending order, above 0 and below {length}",
                "milestones",
            )
        return self


class Profile(Strict):
    """The scale at which a dataset is run."""

    architecture: dict[Name, dict[str, Any]]
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
    overrides: dict[str, Any] = {}


class Run(Strict):
    """One training; `knobs` is the file it follows, `overrides` are knobs of this row alone."""

    method: Name
    backbone: Name
    schedule: Name
    direction: Name
    knobs: Text
    overrides: dict[str, Any] = {}


class Row(Strict):
    """A line of a table: runs that are measured, a published row beside them, or both."""

    label: Text
    runs: Annotated[list[Name], Field(min_length=1)] | None = None
    published: Text | None = None

    @model_validator(mode="after")
    def _shows_something(self):
        if self.runs is None and self.published is None:
            raise refused("has neither runs nor published; give one of them")
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


class Qualitative(_Figure):
    kind: Literal["qualitative"]
    images: Count
    min_score: Fraction
    shows: Annotated[list[Literal["base", "novel"]], Field(min_length=1)] = ["base", "novel"]
    skip: Natural = 0
    across: Count = 1


class NovelResults(_Figure):
    kind: Literal["novel_results"]
    images: Count
    min_score: Fraction
    across: Count
    skip: Natural = 0


class Inside(_Figure):
    kind: Literal["partition", "keys"]
    objects: Count


class Sensitivity(_Figure):
    kind: Literal["sensitivity"]
    knob: Text
    axis: Text


Figure = _one_of("kind", Chart, Qualitative, NovelResults, Inside, Sensitivity)


class Declaration(Strict):
    """The sections of the files of pipeline/experiments/, merged."""

    datasets: dict[Name, Dataset]
    directions: dict[Name, Direction]
    backbones: dict[Name, Backbone]
    profiles: dict[Name, Profile]
    presets: dict[Name, Preset] = {}
    runs: dict[Name, Run]
    tables: dict[Name, Table]
    figures: dict[Name, Figure]


# Published numbers

Id = _matching("[A-Za-z0-9_]+", "letters, digits and _")
Percent = Annotated[float, Field(ge=0, le=100)]
Results = dict[str, dict[str, Percent | None]]


class Document(Strict):
    title: Text


class Tolerance(Strict):
    document: Text
    quantity: Text
    plus_minus: NonNegative
    unit: Literal["percentage_points"]


class PublishedRow(Strict):
    id: Id
    method: Text
    backbone: Text
    schedule: Text
    mask_layers: Natural | None = None
    source: Literal["ours", "baseline", "cited"]
    factors: dict[str, Any]
    results: Results


class PublishedTable(Strict):
    id: Id
    document: Text
    number: Count | None
    caption: Text
    dataset: Text | None = None
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
    id: Id
    document: Text
    claim: Text
    setting: Text | None
    delta_mAP: float | None = None
    mAP: Percent | None = None
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
