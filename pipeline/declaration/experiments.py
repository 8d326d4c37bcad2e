"""Load and check what is declared: the files of `pipeline/experiments/`, merged.

`schema.py` says what each section may hold, `references.py` what a name may refer to, and the knobs of every run are
resolved. So whatever is wrong is found when the declaration is read, before anything costs time.
"""

import copy
import io
import re
import shlex
import subprocess
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import methods, tasks
from pipeline.artifacts import files, paths
from pipeline.declaration import knobs, references, schema, strict
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError

INSIDE_FIGURES = (
    "partition",
    "keys",
    "shapes",
    "maps",
    "transfer",
)  # kinds of figures that show what stage `look_inside` writes
SELECT_AGAIN = "run `python -m commands.select`"
SECTIONS = tuple(name for name in schema.Declaration.model_fields if name != "presets")


def read_yaml(path, pure=False):
    """Read a YAML mapping as DVC does, whose parser in C wants values with a colon quoted inside of braces.

    Args:
        pure: take the slower parser, which does not.

    Raises:
        ExperimentError: the file is missing, unreadable or no mapping.
    """
    return _parse(path, _read(path), pure)


def _read(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:
        restore = f"git -C {shlex.quote(str(path.parent))} checkout HEAD -- {path.name}"
        raise ExperimentError(f"{path}: no such file; restore it with `{restore}`") from None


def _parse(path, content, pure=False):
    try:
        content = YAML(typ="safe", pure=pure).load(content)
    except (YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        hint = "; inside of braces or brackets a value with a colon needs quotes" if "':'" in problem else ""
        raise ExperimentError(f"{_shown(path)}{line}: not valid YAML: {problem}{hint}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise ExperimentError(f"{_shown(path)}: expected a mapping at the top, found {found}")
    return content


def lookup(section, name, what):
    """Return `section[name]`, or raise an ExperimentError that lists the valid names."""
    if not isinstance(name, str) or name not in section:
        raise ExperimentError(
            f"unknown {what} {name!r}{strict.options(name, section)} (declared in pipeline/experiments)"
        )
    return section[name]


@dataclass(frozen=True)
class Run:
    """One row of `runs:`. `knobs` names the knob file it follows; `overrides` are knob values of this row alone.

    Without a `dataset` of its own it is made on the chosen one. `labels`, which its knobs say, names the run whose
    labels of the training images it trains on (`Method.labelled_by`).
    """

    name: str
    method: str
    backbone: str
    schedule: str
    direction: str
    knobs: str
    overrides: dict = field(default_factory=dict)
    dataset: str | None = None
    labels: str | None = None

    def on(self, chosen):
        """The dataset it is made on if `chosen` is the chosen one."""
        return self.dataset or chosen

    @property
    def weights(self):
        """Key of the initial weights that it starts from."""
        return methods.weights_key(methods.method(self.method).detector, self.backbone)

    @property
    def split(self):
        """Name of the training annotations that it reads."""
        return tasks.split_of(methods.task_of(self.method).name, self.direction)

    @property
    def priors(self):
        """Key of what its method learns from the base masks of its split beforehand, None if it learns nothing so."""
        return methods.priors_key(self.method, self.direction)

    @property
    def reads(self):
        """Folder in that of its dataset that a change of makes it train again: labels of another run, its priors, or
        its annotations."""
        if self.labels:
            return f"labels/{self.labels}"
        return f"priors/{self.priors}" if self.priors else f"splits/{self.split}"

    @property
    def pinned(self):
        return self.knobs != "params.yaml"


@dataclass(frozen=True)
class Experiments:
    """The sections of the declaration, plain dictionaries except `runs` (name -> Run)."""

    datasets: dict
    backbones: dict
    profiles: dict
    runs: dict
    tables: dict
    figures: dict

    def run(self, name):
        return lookup(self.runs, name, "run")

    def profile(self, dataset):
        """The profile of a dataset, with length, batch and initial weights that its entry has of its own."""
        entry = self.dataset(dataset)
        profile = _fitted(lookup(self.profiles, entry["profile"], f"profile of dataset {dataset!r}:"), entry)
        return profile | {name: entry[name] for name in ("initial_weights",) if name in entry}

    def dataset(self, name):
        return lookup(self.datasets, name, "dataset")

    def declared_in(self, dataset):
        """The file whose entry of a dataset dvc.yaml compares."""
        name = paths.own(dataset).name if self.dataset(dataset)["kind"] in schema.OWN else "datasets.yaml"
        return f"pipeline/experiments/{name}"

    def label_set(self, dataset):
        """The `label_sets.LabelSet` of a dataset."""
        return label_set(self.dataset(dataset)["label_set"])

    def selection(self, tables, dataset, seeds=()):
        """What dvc.yaml makes for a choice of tables: their runs, those that label images for them, and the free ones,
        what goes before and after them.

        A run whose direction the dataset does not have is left out, and so are tables and figures that then show none.

        Args:
            tables: names of `tables`, any order.
            dataset: the chosen one, which runs without a dataset of their own are made on.
            seeds: that their pinned runs are to be trained with; none: as their knob files say.

        Returns:
            {chosen, seeds, declared, label_set, directions, splits, priors, tables, figures, weights, runs, labels,
            free, look_inside, elsewhere}: the first is `tables` in the order of the declaration, the third the file
            that declares `dataset`, the fourth its label set. The others are dictionaries with just the values that
            stage descriptions and commands need. `splits` are the annotations of other tasks than the first, `priors`
            what methods learn from base masks beforehand, `labels` the runs that label training images for others,
            `free` the runs that follow params.yaml, `look_inside` those that chosen figures need this stage of.
            `elsewhere` holds {datasets, directions, splits, priors, weights, runs, labels, look_inside} of the runs
            with another dataset than `dataset`, as dvc.yaml cannot look it up for a run.
        """
        for name in tables:
            lookup(self.tables, name, "table")
        labels = self.label_set(dataset)
        shown = {run for name in tables for run in runs_of(self.tables[name])}
        shown = self._with_labelling(shown | {name for name, run in self.runs.items() if not run.pinned})
        wanted = {name: run for name, run in self.runs.items() if name in shown}
        here = {name: run for name, run in wanted.items() if run.on(dataset) == dataset}
        here = {name: run for name, run in here.items() if run.direction in labels.directions}
        elsewhere = {name: run for name, run in wanted.items() if run.on(dataset) != dataset}
        made = here.keys() | elsewhere.keys()
        kept = {name: table for name, table in self.tables.items() if name in tables and _shows(runs_of(table), made)}
        figures = {
            name: figure
            for name, figure in self.figures.items()
            if set(figure["tables"]) & set(kept) and _shows([row["run"] for row in figure.get("runs", [])], made)
        }
        looked_into = {
            row["run"] for figure in figures.values() if figure["kind"] in INSIDE_FIGURES for row in figure["runs"]
        }
        columns = ("method", "backbone", "schedule", "direction", "split", "reads", "knobs", "weights")
        weights = self._weights(here.values(), labels)
        return {
            "chosen": [name for name in self.tables if name in tables],
            "seeds": list(seeds),
            "declared": self.declared_in(dataset),
            "label_set": labels.name,
            "directions": {name: dict(sides) for name, sides in self._split_for_first(dataset)},
            "splits": _named_splits(_splits(here.values(), weights)),
            "priors": _priors(here.values()),
            "tables": {name: {"title": table["title"]} for name, table in kept.items()},
            "figures": {name: {"title": figure["title"]} for name, figure in figures.items()},
            "weights": weights,
            "runs": {name: {column: getattr(run, column) for column in columns} for name, run in here.items()},
            "labels": _labels(here.values()),
            "free": {name: {"direction": run.direction} for name, run in here.items() if not run.pinned},
            "look_inside": {name: {"direction": run.direction} for name, run in here.items() if name in looked_into},
            "elsewhere": self._elsewhere(elsewhere, (*columns, "dataset"), looked_into),
        }

    def _with_labelling(self, names):
        """Some runs, and those that label the training images for them, one after the other."""
        found, waiting = set(), set(names)
        while waiting:
            found |= waiting
            waiting = {self.runs[name].labels for name in waiting} - found - {None}
        return found

    def _elsewhere(self, runs, columns, looked_into):
        """The part of a selection that is made on other datasets than the chosen one."""
        datasets = {run.dataset: self.label_set(run.dataset) for run in runs.values()}
        on = {name: [run for run in runs.values() if run.dataset == name] for name in datasets}
        weights = {name: self._weights(on[name], labels) for name, labels in datasets.items()}
        directions = {(run.dataset, run.direction) for run in runs.values()}
        directions |= {(name, self._weights_direction(labels)) for name, labels in datasets.items()}
        directions = {(name, direction) for name, direction in directions if self._split_for_first(name)}
        return {
            "datasets": {
                name: {"label_set": labels.name, "declared": self.declared_in(name)}
                for name, labels in datasets.items()
            },
            "directions": {
                f"{dataset}_{name}": {"dataset": dataset, "direction": name, "label_set": datasets[dataset].name}
                for dataset, name in sorted(directions)
            },
            "splits": {
                f"{dataset}_{name}": {"dataset": dataset, **row, "label_set": datasets[dataset].name}
                for dataset in sorted(datasets)
                for name, row in _named_splits(_splits(on[dataset], weights[dataset])).items()
            },
            "priors": {
                f"{dataset}_{key}": {"dataset": dataset, "key": key, **row}
                for dataset in sorted(datasets)
                for key, row in _priors(on[dataset]).items()
            },
            "weights": {
                f"{dataset}_{key}": {"dataset": dataset, "key": key, **row}
                for dataset in sorted(datasets)
                for key, row in weights[dataset].items()
            },
            "runs": {name: {column: getattr(run, column) for column in columns} for name, run in runs.items()},
            "labels": {
                name: {"dataset": dataset, **row}
                for dataset in sorted(datasets)
                for name, row in _labels(on[dataset]).items()
            },
            "look_inside": {
                name: {"dataset": run.dataset, "direction": run.direction}
                for name, run in runs.items()
                if name in looked_into
            },
        }

    def _split_for_first(self, dataset):
        """(name, sides) of the directions that the first task has training annotations of: none of label maps."""
        kept = schema.holds(self.dataset(dataset)["kind"]) == tasks.task(tasks.FIRST).reads
        return tuple(self.label_set(dataset).directions.items()) if kept else ()

    def _weights(self, runs, labels):
        """The initial weights that runs start from: {key: {label, direction, split}}, in the order of the backbones."""
        direction, started = self._weights_direction(labels), {run.weights: run for run in runs}
        order = list(self.backbones)
        return {
            key: {
                "label": _weights_label(run, self.backbones[run.backbone]["label"]),
                "direction": direction,
                "split": tasks.split_of(methods.task_of(methods.method(run.method).detector).name, direction),
            }
            for key, run in sorted(started.items(), key=lambda item: (order.index(item[1].backbone), item[0]))
        }

    def _weights_direction(self, labels):
        """The direction that initial weights are trained on: that of the profiles, any where no profile trains them."""
        profiles = (profile["initial_weights"] for profile in self.profiles.values())
        names = [weights["direction"] for weights in profiles if weights["kind"] == "pretrain"]
        return next((name for name in names if name in labels.directions), next(iter(labels.directions)))


def _fitted(profile, entry):
    """A profile with `iterations` and `batch_size` of a dataset's entry in the place of its own."""
    if "batch_size" in entry:
        profile = profile | {"training": profile["training"] | {"batch_size": entry["batch_size"]}}
    if "iterations" in entry:
        share = entry["iterations"] / profile["schedules"]["1x"]["iterations"]
        schedules = {
            name: schedule
            | {
                "iterations": round(share * schedule["iterations"]),
                "milestones": [round(share * step) for step in schedule["milestones"]],
            }
            for name, schedule in profile["schedules"].items()
        }
        profile = profile | {"schedules": schedules}
    return profile


def _splits(runs, weights):
    """{(direction, task)} that runs and their initial weights are trained with."""
    found = {(run.direction, methods.task_of(run.method).name) for run in runs}
    return found | {(row["direction"], row["split"].partition(".")[2] or tasks.FIRST) for row in weights.values()}


def _named_splits(splits):
    """Those of other tasks than the first, which has a stage for every direction."""
    return {
        f"{direction}_{task}": {"direction": direction, "task": task, "split": tasks.split_of(task, direction)}
        for direction, task in sorted(splits)
        if task != tasks.FIRST
    }


def _priors(runs):
    """What the methods of runs learn from base masks beforehand: {key: {method, direction}}."""
    wanted = {
        run.priors: {"method": methods.priors_method(run.method), "direction": run.direction}
        for run in runs
        if run.priors
    }
    return dict(sorted(wanted.items()))


def _labels(runs):
    """The runs that label training images for some of these: {name: {split}}."""
    wanted = {run.labels: {"split": run.split} for run in runs if run.labels}  # of one split: `_check_labels`
    return dict(sorted(wanted.items()))


def _weights_label(run, backbone):
    return backbone if run.weights == run.backbone else f"{backbone} of {methods.method(run.method).detector}"


def _shows(runs, made):
    """Whether a table or figure of some runs has one to show, or none to begin with."""
    return not runs or not made.isdisjoint(runs)


def load(folder=None):
    """Read and check the declaration, the published numbers and the knobs of every run.

    Args:
        folder: of the declaration's files; those of this repository by default.

    Raises ExperimentError for anything that is not as `schema.py` says, a name that is declared nowhere or twice.
    """
    declarations = sorted((folder or paths.EXPERIMENTS).glob("*.yaml"))
    numbers = sorted(paths.PUBLISHED.glob("*.yaml"))
    files_of_knobs = [paths.ROOT / name for name in methods.knob_files()]
    groups = (declarations, numbers, files_of_knobs)
    read = [tuple((path, _read(path)) for path in group if path.exists()) for group in groups]
    return copy.deepcopy(_checked(*read))


@lru_cache(maxsize=4)
def _checked(declarations, numbers, files_of_knobs):
    """`load` of files whose content is given, so that they are checked once in a process as long as they stay."""
    content, origin = _merged(declarations)
    declared = strict.check(schema.Declaration, content, origin)
    printed = {_shown(path): _parse(path, text) for path, text in numbers}
    for file, table in printed.items():
        strict.check(schema.Published, table, file)
    references.check(declared, references.Published(printed), origin)
    sections = {name: content[name] for name in SECTIONS}
    runs = {name: Run(name=name, **row) for name, row in sections["runs"].items()}
    resolved = _check_knobs(runs.values(), {_shown(path): _parse(path, text) for path, text in files_of_knobs}, origin)
    labelled_by = _check_labels(runs, resolved, origin)
    sections["runs"] = {name: replace(run, labels=labelled_by[name]) for name, run in runs.items()}
    return Experiments(**sections)


def _merged(declarations):
    """The sections of several files, and a function that tells the file from the keys that lead to a value."""
    content, origins = {name: {} for name in SECTIONS}, {}
    for path, text in declarations:
        for section, entries in _parse(path, text).items():
            origins.setdefault((section,), _shown(path))
            if not isinstance(entries, dict | None):
                raise ExperimentError(f"{_shown(path)}: {section}: expected a mapping, found {type(entries).__name__}")
            content.setdefault(section, {})
            for name, entry in (entries or {}).items():
                if (section, name) in origins and section != "presets":
                    other = origins[section, name]
                    raise ExperimentError(f"{_shown(path)}: {section}.{name}: declared in {other} too; rename one")
                origins[section, name] = _shown(path)
                content[section][name] = entry
    missing = [name for name in SECTIONS if (name,) not in origins]
    if missing and not set(content) - set(schema.Declaration.model_fields):  # a misspelt one says more
        raise ExperimentError(f"pipeline/experiments: section {missing[0]!r} is missing")

    def origin(keys):
        return origins.get(tuple(keys[:2]), origins.get(tuple(keys[:1]), "pipeline/experiments"))

    return content, origin


def _shown(path):
    """A path as messages say it."""
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else path.name


def _check_knobs(runs, contents, origin):
    """Resolve the knobs of every run, first those of its file, so that what is wrong there is not said of a run.

    Returns {run: knobs}.
    """
    resolved = {}
    for run in runs:
        method = methods.method(run.method)
        if run.knobs not in contents:
            read_yaml(paths.ROOT / run.knobs)  # says that it is missing
        values = {name: value for name, value in contents[run.knobs].items() if name != "dataset"}
        resolved[run.name] = method.load_knobs(values, run.knobs, run.schedule)
        if run.overrides:
            where = f"{origin(('runs', run.name))}: runs.{run.name}.overrides"
            method.require_own(run.overrides, f"{where}: method {run.method}")
            resolved[run.name] = method.load_knobs(values | run.overrides, where, run.schedule)
    return resolved


def _check_labels(runs, resolved, origin):
    """{run: the run whose labels of the training images it trains on, or None}.

    Raises ExperimentError if that is none, of another direction or data set or one with all masks, which may show what
    is hidden here, has not all its seeds, or is trained on what depends on it.
    """
    found = {}
    for name, run in runs.items():
        where = f"{origin(('runs', name))}: runs.{name}"
        try:
            found[name] = source = methods.method(run.method).labelled_by(resolved[name])
        except ExperimentError as error:
            raise ExperimentError(f"{where}: {error}") from None
        if source is None:
            continue
        if source not in runs:
            raise ExperimentError(f"{where}: unknown run {source!r} to label images{strict.options(source, runs)}")
        other = runs[source]
        for what in ("direction", "dataset"):
            if getattr(run, what) != getattr(other, what):
                raise ExperimentError(
                    f"{where}: {what} is {getattr(run, what)}, that of {source}, which labels its images, "
                    f"{getattr(other, what)}; name a run of the same {what}"
                )
        if methods.method(run.method).task != methods.method(other.method).task:
            raise ExperimentError(f"{where}: {source}, which labels its images, is of another task; name another run")
        if methods.method(other.method).all_masks(resolved[source]):
            raise ExperimentError(
                f"{where}: {source}, which labels its images, has the masks of all classes, novel ones too; name "
                "another run"
            )
        if lacking := set(resolved[name].seeds) - set(resolved[source].seeds):
            raise ExperimentError(
                f"{where}: seed {min(lacking)} of {source}, which labels its images, is not trained; add it to the "
                f"seeds of {source}"
            )
    for name in runs:
        chain = [name]
        while (source := found[chain[-1]]) is not None:
            if source in chain:
                raise ExperimentError(
                    f"{origin(('runs', name))}: runs.{name}: {' trains on labels of '.join([*chain, source])}; name "
                    "another run"
                )
            chain.append(source)
    return found


def made(declared, names, dataset):
    """Those of some runs that can be made if `dataset` is the chosen one: their data set has their direction."""
    runs = ((name, declared.runs[name]) for name in names)
    return [name for name, run in runs if run.direction in declared.label_set(run.on(dataset)).directions]


def runs_of(table):
    """Names of the runs that a table shows, each once, in its order."""
    return list(dict.fromkeys(run for row in table["rows"] for run in row.get("runs", [])))


def selected(declared=None):
    """The choice in selection.yaml, as `Experiments.selection` returns it.

    Raises ExperimentError if the file is not what `commands.select` would write for its tables now.
    """
    content = read_yaml(paths.SELECTION).get("selected")
    chosen, seeds = _chosen_in(content), _seeds_in(content)
    if None in (chosen, seeds) or content != (declared or load()).selection(chosen, chosen_dataset(), seeds):
        raise ExperimentError(
            "pipeline/selection.yaml is not what pipeline/experiments and `dataset` in params.yaml say now; "
            f"{SELECT_AGAIN}"
        )
    return content


def _chosen_in(content):
    """The tables that the content of selection.yaml chooses; None if it is not of that form."""
    chosen = content.get("chosen") if isinstance(content, dict) else None
    texts = isinstance(chosen, list) and all(isinstance(name, str) for name in chosen)
    return chosen if texts else None


def _seeds_in(content):
    """The seeds that the content of selection.yaml asks for, a tuple; None if it is not of that form."""
    seeds = content.get("seeds") if isinstance(content, dict) else None
    if not isinstance(seeds, list) or not seeds:
        return () if seeds == [] else None
    try:
        return knobs.load(knobs.KnobSet, {"seeds": seeds}, "selection.yaml").seeds
    except ExperimentError:
        return None


def asked_seeds():
    """The seeds that `commands.select --seeds` asked for, for every pinned run; empty without any, or if selection.yaml
    is damaged, which `selected` says.
    """
    try:
        return _seeds_in(read_yaml(paths.SELECTION).get("selected")) or ()
    except (ExperimentError, OSError):
        return ()


def chosen_tables(declared):
    """The tables that selection.yaml chooses and that are declared, also where it is damaged (or a merge's conflict):
    those that it lists; where it lists none, those of the last commit.

    Raises ExperimentError if that names none either.
    """
    try:
        text = paths.SELECTION.read_bytes()
    except FileNotFoundError:
        text = b""
    ran = subprocess.run(
        ["git", "show", f"HEAD:./{paths.SELECTION.name}"], cwd=paths.SELECTION.parent, capture_output=True
    )
    for content in (text, ran.stdout):
        try:
            listed = _chosen_in(_parse(paths.SELECTION, content).get("selected"))
        except ExperimentError:
            listed = None
        if listed is None:
            listed = re.findall(r"^\s*- ([a-z0-9_]+)\s*$", content.decode(errors="replace"), re.MULTILINE)
        if tables := [name for name in declared.tables if name in listed]:
            return tables
    raise ExperimentError(
        f"pipeline/selection.yaml chooses no table; run `python -m commands.select {next(iter(declared.tables))}` with "
        f"one of {', '.join(declared.tables)}"
    )


def repro(stage, *names, again=False):
    """The command line that makes stages of runs, for messages. DVC knows those of chosen tables alone.

    Args:
        stage: a group of dvc.yaml over runs.
        names: of runs.
        again: whether it is made although DVC takes it for unchanged, without what goes before it.
    """
    options = ["dvc repro -s -f" if again else "dvc repro"]
    try:
        declared = load()
        selection = selected(declared)
    except (ExperimentError, OSError):  # said by whatever reads them for more than a message
        return " ".join([*options, *(f"{stage}@{name}" for name in names)])
    chosen = selection["chosen"]
    wanted = list(chosen)
    for name in names:
        showing = [table for table, entry in declared.tables.items() if name in runs_of(entry)]
        if showing and declared.runs[name].pinned and not set(showing) & set(wanted):
            wanted.append(showing[0])
    selection = selection if wanted == chosen else declared.selection(wanted, chosen_dataset(), selection["seeds"])
    line = " ".join([*options, *(target(stage, name, selection) for name in names)])
    return line if wanted == chosen else f"python -m commands.select {' '.join(wanted)} && {line}"


def target(stage, run, selection):
    """The stage of a run in dvc.yaml, which has other groups for runs on another dataset than the chosen one.

    Args:
        stage: a group of dvc.yaml over runs, such as `train`.
        run: its name.
        selection: as `Experiments.selection` returns it.
    """
    return f"{stage}_elsewhere@{run}" if run in selection["elsewhere"]["runs"] else f"{stage}@{run}"


def dataset_of(name):
    """The dataset that a run is made on: its own, else the chosen one.

    Raises:
        ExperimentError: no such run, or dvc.yaml takes it for one on another dataset.
    """
    chosen = chosen_dataset()
    dataset = load().run(name).on(chosen)
    selection = read_yaml(paths.SELECTION).get("selected") or {}
    other = selection.get("elsewhere", {}).get("runs", {}).get(name)
    if dataset != (other["dataset"] if other else chosen if name in selection.get("runs", {}) else dataset):
        raise ExperimentError(f"run {name}: dvc.yaml makes it on another dataset than {dataset}; {SELECT_AGAIN}")
    if other and dataset == chosen:
        raise ExperimentError(f"run {name}: dvc.yaml does not know that {dataset} is chosen; {SELECT_AGAIN}")
    return dataset


def runs_chosen(selection):
    """{name: columns} of all runs of a selection, on the chosen dataset and elsewhere; the latter have a `dataset`."""
    return selection["runs"] | selection["elsewhere"]["runs"]


def runs_labelling(selection):
    """{name: columns} of the runs of a selection that label training images, as `runs_chosen`."""
    return selection["labels"] | selection["elsewhere"]["labels"]


def made_on(selection, dataset):
    """The runs and the initial weights of a selection that are made on a dataset, two tuples of names.

    Args:
        selection: as `Experiments.selection` returns it.
        dataset: the chosen one, or that of runs elsewhere.
    """
    elsewhere = selection["elsewhere"]
    if dataset not in elsewhere["datasets"]:
        return tuple(selection["runs"]), tuple(selection["weights"])
    runs = tuple(name for name, run in elsewhere["runs"].items() if run["dataset"] == dataset)
    return runs, tuple(row["key"] for row in elsewhere["weights"].values() if row["dataset"] == dataset)


def select(tables, seeds=(), dataset=None):
    """Write selection.yaml for a choice of tables and return it.

    Args:
        tables, seeds: as `Experiments.selection` takes them.
        dataset: to be written into params.yaml as well; None: the one that it names.

    Raises:
        ExperimentError: a table or the data set is unknown, or the seeds are no different numbers.
    """
    seeds = knobs.load(knobs.KnobSet, {"seeds": list(seeds)}, "--seeds").seeds if seeds else ()
    if dataset is not None:
        lookup(load().datasets, dataset, "dataset (--dataset):")
    selection = load().selection(tables, dataset or chosen_dataset(), seeds)
    if dataset is not None:
        _choose(dataset)
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 200
    yaml.dump({"selected": selection}, text)
    header = "# Written by `python -m commands.select TABLE...`: what dvc.yaml makes. Do not edit.\n"
    files.write_text(paths.SELECTION, header + text.getvalue())
    return selection


def _choose(dataset):
    """Write a declared data set into params.yaml; all else in it, comments too, stays as it is."""
    text = paths.PARAMS.read_bytes().decode()
    text, found = re.subn(r"(?m)^dataset:[ \t]*[^\s#]+", f"dataset: {dataset}", text)
    if found != 1:
        raise ExperimentError("params.yaml has no line `dataset: NAME` to change; write e.g. `dataset: generated`")
    files.write_text(paths.PARAMS, text)


def chosen_dataset():
    """The dataset every run is made on: `dataset:` of params.yaml. Raises ExperimentError if it is not declared."""
    params = read_yaml(paths.PARAMS)
    if "dataset" not in params:
        raise ExperimentError("params.yaml: `dataset` is missing; write e.g. `dataset: generated`")
    lookup(load().datasets, params["dataset"], "dataset (params.yaml: dataset):")
    return params["dataset"]
