"""Load and check `experiments.yaml`, the one declaration of datasets, runs, tables and figures."""

import io
import re
import shlex
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.artifacts import files, paths
from pipeline.errors import ExperimentError

NAME = re.compile(r"[a-z0-9_]+")
RUN_KEYS = {"method", "backbone", "schedule", "direction", "knobs", "overrides"}
ROW_KEYS = {"label", "runs", "published"}
KNOB_FILES = ("pipeline/methods/contrastmask/knobs.yaml", "params.yaml")
PRIORS_FIGURES = ("partition", "keys")  # kinds of figures that show what stage `priors` writes
REPORT_FOLDERS = ("snapshot", "seed_study")  # beside those of the datasets in reports/, tracked by git
REQUIRED = {  # columns that an entry of a section cannot do without; an unknown value is found where it is looked up
    "datasets": ("kind", "profile"),
    "directions": ("base", "novel"),
    "methods": ("label",),
    "backbones": ("label",),
    "profiles": ("schedules",),
    "tables": ("title", "rows"),
    "figures": ("title", "kind", "tables"),
}
REQUIRED_OF_KIND = {  # further columns of a figure
    "qualitative": ("images", "min_score"),
    "novel_results": ("images", "min_score", "across"),
    "partition": ("objects", "runs"),
    "keys": ("objects", "runs"),
    "sensitivity": ("knob", "axis"),
}


def read_yaml(path, pure=False):
    """Read a YAML mapping as DVC does, whose parser in C wants values with a colon quoted inside of braces.

    Args:
        pure: take the slower parser, which does not.

    Raises:
        ExperimentError: the file is missing, unreadable or no mapping.
    """
    try:
        content = YAML(typ="safe", pure=pure).load(path)
    except FileNotFoundError:
        restore = f"git -C {shlex.quote(str(path.parent))} checkout HEAD -- {path.name}"
        raise ExperimentError(f"{path}: no such file; restore it with `{restore}`") from None
    except YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", error)
        hint = "; inside of braces or brackets a value with a colon needs quotes" if "':'" in str(problem) else ""
        raise ExperimentError(f"{path.name}{line}: not valid YAML: {problem}{hint}") from None
    if not isinstance(content, dict):
        raise ExperimentError(f"{path.name}: expected a mapping at the top, found {type(content).__name__}")
    return content


def lookup(section, name, what):
    """Return `section[name]`, or raise an ExperimentError that lists the valid names."""
    if name not in section:
        raise ExperimentError(
            f"unknown {what} {name!r}; valid: {', '.join(map(str, section))} "
            "(declared in pipeline/experiments/contrastmask.yaml)"
        )
    return section[name]


@dataclass(frozen=True)
class Run:
    """One row of `runs:`. `knobs` names the knob file it follows; `overrides` are knob values of this row alone."""

    name: str
    method: str
    backbone: str
    schedule: str
    direction: str
    knobs: str
    overrides: dict = field(default_factory=dict)

    @property
    def pinned(self):
        return self.knobs != "params.yaml"


@dataclass(frozen=True)
class Experiments:
    """The sections of experiments.yaml, plain dictionaries except `runs` (name -> Run)."""

    datasets: dict
    directions: dict
    methods: dict
    backbones: dict
    profiles: dict
    runs: dict
    tables: dict
    figures: dict

    def run(self, name):
        return lookup(self.runs, name, "run")

    def profile(self, dataset):
        return lookup(self.profiles, self.dataset(dataset)["profile"], f"profile of dataset {dataset!r}:")

    def dataset(self, name):
        return lookup(self.datasets, name, "dataset")

    def selection(self, tables):
        """What dvc.yaml makes for a choice of tables: their runs and the free one, with the backbones and figures.

        Args:
            tables: names of `tables`, any order.

        Returns:
            {tables, figures, backbones, runs, priors}, each a dictionary in the order of the declaration with just the
            values that stage descriptions and commands need. `priors` are runs too: those that chosen figures need
            stage `priors` of.
        """
        for name in tables:
            lookup(self.tables, name, "table")
        chosen = {name: table for name, table in self.tables.items() if name in tables}
        shown = {run for table in chosen.values() for run in runs_of(table)}
        runs = {name: run for name, run in self.runs.items() if name in shown or not run.pinned}
        backbones = {run.backbone for run in runs.values()}
        columns = ("method", "backbone", "schedule", "direction", "knobs")
        figures = {name: figure for name, figure in self.figures.items() if set(figure["tables"]) & set(chosen)}
        looked_into = {
            row["run"] for figure in figures.values() if figure["kind"] in PRIORS_FIGURES for row in figure["runs"]
        }
        return {
            "tables": {name: {"title": table["title"]} for name, table in chosen.items()},
            "figures": {name: {"title": figure["title"]} for name, figure in figures.items()},
            "backbones": {name: dict(row) for name, row in self.backbones.items() if name in backbones},
            "runs": {name: {column: getattr(run, column) for column in columns} for name, run in runs.items()},
            "priors": {name: {"direction": run.direction} for name, run in runs.items() if name in looked_into},
        }


def load(path=paths.EXPERIMENTS):
    """Read and check the declaration.

    Raises ExperimentError for a missing section, a bad name, an unknown column of a run, or a reference to a method,
    backbone, direction, schedule, run or profile that is not declared.
    """
    content = read_yaml(path)
    sections = ("datasets", "directions", "methods", "backbones", "profiles", "runs", "tables", "figures")
    if missing := [name for name in sections if name not in content]:
        raise ExperimentError(f"{path.name}: section {missing[0]!r} is missing")
    if unknown := set(content) - {*sections, "presets"}:
        raise ExperimentError(f"{path.name}: unknown section {sorted(unknown)[0]!r}; valid: {', '.join(sections)}")
    for section in sections:
        for name in content[section] or {}:
            if not NAME.fullmatch(str(name)):
                raise ExperimentError(f"{path.name}: {section}.{name}: names consist of a-z, 0-9 and _")
        for name, entry in (content[section] or {}).items():
            _require(path, f"{section}.{name}", entry, REQUIRED.get(section, ()))
    parsed = {section: content[section] or {} for section in sections}
    parsed["runs"] = {name: _run(name, row, parsed) for name, row in parsed["runs"].items()}
    for name, dataset in parsed["datasets"].items():
        lookup(parsed["profiles"], dataset["profile"], f"profile (datasets.{name}.profile):")
        if name in REPORT_FOLDERS:
            raise ExperimentError(f"{path.name}: datasets.{name}: reports/{name} is taken; choose another name")
    for name, table in parsed["tables"].items():
        _require_list(path, f"tables.{name}.rows", table["rows"])
        for number, row in enumerate(table["rows"], start=1):
            _require(path, f"tables.{name}: row {number}", row, ("label",))
            _require_list(path, f"tables.{name}: row {row['label']!r}: runs", row.get("runs", []))
            if "published" in row:
                _require(path, f"tables.{name}", table, ("published",))
            if unknown := set(row) - ROW_KEYS:
                raise ExperimentError(
                    f"{path.name}: tables.{name}: row {row.get('label')!r}: unknown column {sorted(unknown)[0]!r}; "
                    f"valid: {', '.join(sorted(ROW_KEYS))}"
                )
            if not {"runs", "published"} & set(row):
                raise ExperimentError(f"{path.name}: tables.{name}: row {row['label']!r}: neither runs nor published")
            directions = [lookup(parsed["runs"], run, f"run (tables.{name}):").direction for run in row.get("runs", [])]
            if len(set(directions)) < len(directions):
                raise ExperimentError(
                    f"{path.name}: tables.{name}: row {row['label']!r} has two runs of one direction; make it two rows"
                )
    for name, figure in parsed["figures"].items():
        _require(path, f"figures.{name}", figure, REQUIRED_OF_KIND.get(figure["kind"], ()))
        _require_list(path, f"figures.{name}.tables", figure["tables"])
        _require_list(path, f"figures.{name}.runs", figure.get("runs", []))
        for table in figure["tables"]:
            lookup(parsed["tables"], table, f"table (figures.{name}):")
        for number, row in enumerate(figure.get("runs", []), start=1):
            _require(path, f"figures.{name}: run {number}", row, ("label", "run"))
            lookup(parsed["runs"], row["run"], f"run (figures.{name}):")
    return Experiments(**parsed)


def runs_of(table):
    """Names of the runs that a table shows, each once, in its order."""
    return list(dict.fromkeys(run for row in table["rows"] for run in row.get("runs", [])))


def selected(declared=None):
    """The choice in selection.yaml: {tables, figures, backbones, runs, priors} as `Experiments.selection` returns it.

    Raises ExperimentError if the file is not what `commands.select` would write for its tables now.
    """
    content = read_yaml(paths.SELECTION).get("selected")
    known = isinstance(content, dict) and "tables" in content
    if not known or content != (declared or load()).selection(content["tables"]):
        raise ExperimentError(
            "pipeline/selection.yaml is not what pipeline/experiments/contrastmask.yaml says now; "
            "run `python -m commands.select`"
        )
    return content


def repro(stage, *names, again=False):
    """The command line that makes stages of runs, for messages. DVC knows those of chosen tables alone.

    Args:
        stage: a group of dvc.yaml over runs.
        names: of runs.
        again: whether it is made although DVC takes it for unchanged, without what goes before it.
    """
    line = " ".join(["dvc repro", *["-s -f"] * again, *(f"{stage}@{name}" for name in names)])
    try:
        declared = load()
        chosen = list(selected(declared)["tables"])
    except (ExperimentError, OSError):  # said by whatever reads them for more than a message
        return line
    wanted = list(chosen)
    for name in names:
        showing = [table for table, entry in declared.tables.items() if name in runs_of(entry)]
        if showing and declared.runs[name].pinned and not set(showing) & set(wanted):
            wanted.append(showing[0])
    return line if wanted == chosen else f"python -m commands.select {' '.join(wanted)} && {line}"


def select(tables):
    """Write selection.yaml for a choice of tables and return it. Raises ExperimentError for an unknown one."""
    selection = load().selection(tables)
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 200
    yaml.dump({"selected": selection}, text)
    header = "# Written by `python -m commands.select TABLE...`: what dvc.yaml makes. Do not edit.\n"
    files.write_text(paths.SELECTION, header + text.getvalue())
    return selection


def _require(path, where, entry, columns):
    """Raise an ExperimentError unless `entry` is a mapping with a value in each of `columns`."""
    if not isinstance(entry, dict):
        raise ExperimentError(f"{path.name}: {where}: expected a mapping, found {type(entry).__name__}")
    if missing := [column for column in columns if entry.get(column) is None]:
        raise ExperimentError(f"{path.name}: {where}: column {missing[0]!r} is missing")


def _require_list(path, where, value):
    if not isinstance(value, list):
        raise ExperimentError(f"{path.name}: {where}: expected a list, found {type(value).__name__}")


def _run(name, row, sections):
    where = f"runs.{name}"
    if not isinstance(row, dict):
        raise ExperimentError(f"experiments.yaml: {where}: expected a mapping, found {type(row).__name__}")
    if unknown := set(row) - RUN_KEYS:
        raise ExperimentError(
            f"experiments.yaml: {where}: unknown column {sorted(unknown)[0]!r}; valid: {', '.join(sorted(RUN_KEYS))}"
        )
    if missing := RUN_KEYS - {"overrides"} - set(row):
        raise ExperimentError(f"experiments.yaml: {where}: column {sorted(missing)[0]!r} is missing")
    for column, section in (("method", "methods"), ("backbone", "backbones"), ("direction", "directions")):
        lookup(sections[section], row[column], f"{column} ({where}):")
    for profile in sections["profiles"].values():
        lookup(profile["schedules"], row["schedule"], f"schedule ({where}):")
    if row["knobs"] not in KNOB_FILES:
        raise ExperimentError(f"experiments.yaml: {where}.knobs: {row['knobs']!r}; valid: {', '.join(KNOB_FILES)}")
    return Run(name=name, **row)


def chosen_dataset():
    """The dataset every run is made on: `dataset:` of params.yaml. Raises ExperimentError if it is not declared."""
    params = read_yaml(paths.PARAMS)
    if "dataset" not in params:
        raise ExperimentError("params.yaml: `dataset` is missing; write e.g. `dataset: generated`")
    name = params["dataset"]
    lookup(load().datasets, name, "dataset (params.yaml: dataset):")
    return name
