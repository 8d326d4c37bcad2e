"""Look up the names by which sections of the declaration refer to each other, to knobs and to published numbers."""

from pydantic import create_model

from pipeline import methods, tasks
from pipeline.artifacts import paths
from pipeline.declaration import schema, strict
from pipeline.declaration.knobs import RECIPE, differences
from pipeline.declaration.label_sets import known as label_sets
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError

REPORT_FOLDERS = ("snapshot", "seed_study")  # beside those of the datasets in reports/, tracked by git
DATASETS = "pipeline/experiments/datasets.yaml"
OF_ONE_RUN = (schema.NovelResults, schema.Inside)
OF_OBJECTS = (schema.Qualitative, schema.SameObjects, *OF_ONE_RUN)
OF_ALL_DIRECTIONS = ("loss_curves", "novel_share")  # kinds of figures that show no group beside that of another split


class Published:
    """The numbers that papers print, by id.

    Args:
        files: name of a file -> its content.

    Raises:
        ExperimentError: two entries have one id.
    """

    def __init__(self, files):
        self.files = {}
        self.tables, self.statements = self._by_id(files, "tables"), self._by_id(files, "statements")

    def _by_id(self, files, section):
        found = {}
        for file, content in files.items():
            for entry in content[section]:
                where = f"{file}: {section}[{entry['id']!r}]"
                if entry["id"] in found:
                    other = self.files[section, entry["id"]]
                    raise ExperimentError(f"{where}: declared in {other} too; rename one")
                found[entry["id"]], self.files[section, entry["id"]] = entry, file
        return found

    def rows(self, table):
        return {row["id"]: row for row in self.tables[table]["rows"]}


def check(declared, published, origin):
    """Refuse a name that nothing bears (ExperimentError, one line).

    Args:
        declared: `schema.Declaration`.
        published: `Published`.
        origin: as `source` of `strict.check`.
    """
    Check(declared, published, origin).everything()


def presets():
    """Refuse what no row of a method's recipes file may be (ExperimentError, one line)."""
    for method in map(methods.method, methods.names()):
        if method.recipes is None:
            continue
        file, columns = f"{method.recipes.parent.name}/{method.recipes.name}", strict.choices(method.knobs, RECIPE)
        rows = list(differences(method.recipes))
        strict.check(list[schema.Difference], rows, file)
        known = [*schema.Difference.model_fields, *columns]
        for row in rows:
            for key in row:
                if key not in known:
                    raise ExperimentError(f"{file}: [{row['id']!r}].{key}: unknown key{strict.options(key, known)}")
            if lacking := [column for column in columns if column not in row]:
                raise ExperimentError(
                    f"{file}: [{row['id']!r}].{lacking[0]}: is missing; give the value of this preset"
                )
            if (knob := row["knob"]) is not None and knob not in methods.all_knobs():
                hint = strict.options(knob, methods.all_knobs())
                raise ExperimentError(f"{file}: [{row['id']!r}].knob: unknown knob {knob!r}{hint}")


def _decided():
    """What a profile may say of knobs, as a model: of those that recipes decide, as it would be ignored of others."""
    fields = {}
    for method in map(methods.method, methods.names()):
        if method.recipes is not None:
            decided, known = [row["knob"] for row in differences(method.recipes)], method.knobs.model_fields
            fields |= {name: (known[name].rebuild_annotation(), None) for name in (RECIPE, *decided) if name in known}
    return create_model("Scale", __base__=strict.Strict, **fields)


class Check:
    """The checks of `check`; keys lead to the value that is looked up."""

    def __init__(self, declared, published, origin):
        self.declared, self.published, self.origin = declared, published, origin

    def everything(self):
        presets()
        for section in ("profiles", "datasets", "runs", "tables", "figures"):
            for name, entry in getattr(self.declared, section).items():
                getattr(self, section)(entry, section, name)
        for name, table in self.published.tables.items():
            self.numbers(name, table)

    def refuse(self, text, *keys):
        raise ExperimentError(f"{self.origin(keys)}: {strict.dotted(map(str, keys))}: {text}")

    def known(self, what, valid, value, *keys):
        if value not in valid:
            self.refuse(f"unknown {what} {value!r}{strict.options(value, valid)}", *keys)

    def datasets(self, dataset, *keys):
        self.known("profile", self.declared.profiles, dataset.profile, *keys, "profile")
        file = self.origin(keys)
        due = f"pipeline/experiments/{paths.own(keys[-1]).name}" if dataset.kind in schema.OWN else DATASETS
        if file.startswith("pipeline/experiments/") and file != due:
            self.refuse(f"move it to {due}, where dvc.yaml looks for data sets", *keys)
        if keys[-1] in REPORT_FOLDERS:
            self.refuse(f"reports/{keys[-1]} is taken; choose another name", *keys)
        self.known("label set", label_sets(), dataset.label_set, *keys, "label_set")
        if dataset.train == dataset.validation:
            self.refuse(f"is {dataset.train!r}, as `train`; name another folder", *keys, "validation")
        if getattr(dataset, "iterations", None) and "iterations" not in self.lengths(dataset.profile):
            self.refuse(
                f"is for profiles whose schedules count iterations, not {dataset.profile!r}", *keys, "iterations"
            )
        profile = self.declared.profiles[dataset.profile]
        if profile.reads != (held := schema.holds(dataset.kind)):
            text = f"is for data sets of {profile.reads}, this one holds {held}"
            self.refuse(f"profile {dataset.profile!r} {text}; name another", *keys, "profile")
        if dataset.initial_weights is not None:
            self.weights(dataset.initial_weights, profile, *keys, "initial_weights")
        weights = dataset.initial_weights or profile.initial_weights
        if isinstance(weights, schema.Pretrained) and weights.direction not in self.directions(keys[-1]):
            self.refuse(
                f"profile {dataset.profile!r} pre-trains on direction {weights.direction!r}, which label set "
                f"{dataset.label_set!r} does not have; declare it there, such as {{base: none, novel: all}}",
                *keys,
                "profile",
            )

    def lengths(self, profile):
        """In what the schedules of a profile count, as far as all of them do."""
        schedules = self.declared.profiles[profile].schedules.values()
        return [unit for unit in ("epochs", "iterations") if all(getattr(each, unit) for each in schedules)]

    def directions(self, *datasets):
        """Names of the directions that one of some datasets has."""
        sets = dict.fromkeys(self.declared.datasets[name].label_set for name in datasets)
        found = (label_set(name).directions for name in sets if name in label_sets())  # `datasets` refuses others
        return list(dict.fromkeys(direction for directions in found for direction in directions))

    def profiles(self, profile, *keys):
        sizes = methods.sizes()
        for detector, values in profile.architecture.items():
            where = (*keys, "architecture", detector)
            self.known("detector", sizes, detector, *where)
            strict.check(sizes[detector], values, self.origin(keys), where)
        strict.check(_decided(), profile.knobs, self.origin(keys), (*keys, "knobs"))
        for knob, values in profile.instead.items():
            for value in values.values():
                strict.check(_decided(), {knob: value}, self.origin(keys), (*keys, "instead"))
        for backbone in profile.backbones:
            self.known("backbone", self.declared.backbones, backbone, *keys, "backbones", backbone)
        self.weights(profile.initial_weights, profile, *keys, "initial_weights")

    def weights(self, weights, profile, *keys):
        """Initial weights of a profile, or of a data set that is run at it."""
        if isinstance(weights, schema.Pretrained):
            directions = self.directions(*self.declared.datasets)
            self.known("direction", directions, weights.direction, *keys, "direction")
        if isinstance(weights, schema.FromCheckpoint) and weights.names is not None:
            having = methods.having("checkpoint_map")
            self.known("method with released checkpoints", having, weights.names, *keys, "names")
        if isinstance(weights, schema.Downloaded):
            for backbone in weights.model_extra:
                self.known("backbone", profile.backbones, backbone, *keys, backbone)
            for backbone in profile.backbones:
                if backbone not in weights.model_extra:
                    self.refuse("is missing; give the URL of its weights", *keys, backbone)

    def runs(self, run, *keys):
        declared = self.declared
        self.known("method", methods.names(), run.method, *keys, "method")
        self.known("backbone", declared.backbones, run.backbone, *keys, "backbone")
        if run.dataset is not None:
            self.known("dataset", declared.datasets, run.dataset, *keys, "dataset")
        reads = methods.task_of(run.method).reads
        if run.dataset is not None and reads != (held := schema.holds(declared.datasets[run.dataset].kind)):
            text = f"holds {held}, and method {run.method!r} reads {reads}; name another"
            self.refuse(f"{run.dataset!r} {text}", *keys, "dataset")
        directions = self.directions(*([run.dataset] if run.dataset else declared.datasets))
        self.known("direction", directions, run.direction, *keys, "direction")
        self.known("file of knobs", methods.knob_files(), run.knobs, *keys, "knobs")
        for name, profile in declared.profiles.items():
            if profile.reads != reads:
                continue
            self.known(f"schedule of profile {name}:", profile.schedules, run.schedule, *keys, "schedule")
            self.known(f"backbone of profile {name}:", profile.backbones, run.backbone, *keys, "backbone")

    def tables(self, table, *keys):
        printed = {}
        if table.published is not None:
            self.known("published table", self.published.tables, table.published, *keys, "published")
            printed = self.published.rows(table.published)
        if table.gain is not None:
            self.known("published statement", self.published.statements, table.gain, *keys, "gain")
        for row in table.rows:
            where = (*keys, "rows", f"[{row.label!r}]")
            if row.published is not None:
                self.known(f"row of {table.published}:", printed, row.published, *where, "published")
            for name in row.runs or []:
                self.known("run", self.declared.runs, name, *where, "runs")
        several = self.tasks(run for row in table.rows for run in row.runs or [])
        if len(set(several.values())) > 1:
            told = ", ".join(f"{run} ({task})" for run, task in several.items())
            self.refuse(f"its runs are of several tasks, {told}; make a table for each task", *keys)
        for row in table.rows:
            where = (*keys, "rows", f"[{row.label!r}]")
            directions = [self.declared.runs[name].direction for name in row.runs or []]
            if len(set(directions)) < len(directions):
                self.refuse("has two runs of one direction; make it two rows", *where)

    def numbers(self, name, table):
        """The printed numbers of a published table are in the range of their metric, by the tasks that show them."""
        shown = [entry for entry in self.declared.tables.values() if entry.published == name]
        of_runs = {self.declared.runs[run].method for entry in shown for row in entry.rows for run in row.runs or []}
        for task in {methods.task_of(method).name for method in of_runs} or {tasks.FIRST}:
            known = {metric.key: metric for metric in tasks.task(task).metrics}
            for row in table["rows"]:
                for setting, printed in row["results"].items():
                    for key, value in printed.items():
                        if key in known and not known[key].valid(value):
                            where = f"tables[{name!r}].rows[{row['id']!r}].results.{setting}.{key}"
                            low, high = known[key].lowest, known[key].highest
                            valid = f"at least {low:g}" if value < low else f"at most {high:g}"
                            file = self.published.files["tables", name]
                            raise ExperimentError(f"{file}: {where}: is {value}; valid: {valid}")

    def figures(self, figure, *keys):
        for name in figure.tables:
            self.known("table", self.declared.tables, name, *keys, "tables")
        for shown in figure.runs or []:
            self.known("run", self.declared.runs, shown.run, *keys, "runs", f"[{shown.label!r}]", "run")
        places = {self.declared.runs[name].dataset for name in self.shown(figure) if name in self.declared.runs}
        if len(places) > 1:
            several = ", ".join(sorted(place or "the chosen one" for place in places))
            self.refuse(f"its runs are on several data sets ({several}); make it a figure for each", *keys)
        if isinstance(figure, OF_ONE_RUN) and len(runs := self.shown(figure)) != 1:
            self.refuse(f"a figure of kind {figure.kind} shows one run, not {len(runs)}; name one under `runs`", *keys)
        directions = sorted({self.declared.runs[run].direction for run in self.shown(figure)})
        if figure.kind not in OF_ALL_DIRECTIONS and len(directions) > 1:
            told = ", ".join(directions)
            self.refuse(f"have the directions {told}; base and novel mean one thing only within one", *keys, "runs")
        self.of_one_task(figure, *keys)
        if isinstance(figure, schema.Inside):
            self.inside(figure, *keys)
        if isinstance(figure, schema.Sensitivity):
            self.sensitivity(figure, *keys)

    def tasks(self, runs):
        """{run: name of its task}."""
        return {name: methods.task_of(self.declared.runs[name].method).name for name in runs}

    def of_one_task(self, figure, *keys):
        """A figure compares numbers of one task; what shows masks of objects, that of the first alone."""
        found = self.tasks(self.shown(figure))
        told = ", ".join(f"{run} ({task})" for run, task in found.items())
        if isinstance(figure, OF_OBJECTS) and set(found.values()) - {tasks.FIRST}:
            text = f"a figure of kind {figure.kind} shows objects of the task {tasks.FIRST}, not {told}"
            self.refuse(text, *keys, "kind")
        if isinstance(figure, schema.SplitMaps) and any(tasks.task(name).reads != "maps" for name in found.values()):
            self.refuse(f"a figure of kind {figure.kind} shows label maps, not {told}", *keys, "kind")
        if figure.kind != "loss_curves" and len(set(found.values())) > 1:
            self.refuse(f"its runs are of several tasks, {told}; make it a figure for each", *keys)

    def inside(self, figure, *keys):
        """Runs of methods that have something inside to show."""
        showing = [name for name in methods.names() if figure.kind in methods.method(name).inside_figures]
        for run in self.shown(figure):
            method = self.declared.runs[run].method
            if method not in showing:
                valid = ", ".join(showing)
                self.refuse(f"method {method} of run {run} shows nothing of its inside; valid: {valid}", *keys, "runs")

    def shown(self, figure):
        """Names of the runs of a figure: its own, or those of its table."""
        if figure.runs is not None:
            return [row.run for row in figure.runs]
        return [run for row in self.declared.tables[figure.tables[0]].rows for run in row.runs or []]

    def sensitivity(self, figure, *keys):
        self.known("knob", methods.all_knobs(), figure.knob, *keys, "knob")
        for task in sorted(set(self.tasks(self.shown(figure)).values())):
            for group in figure.groups or ():
                self.known(f"group of the task {task}:", tasks.task(task).groups, group, *keys, "groups")
        table = self.declared.tables[figure.tables[0]]
        for row in table.rows:
            if row.published is not None:
                printed = self.published.rows(table.published)[row.published]
                self.known(
                    f"factor of the published row {row.published}:", printed["factors"], figure.knob, *keys, "knob"
                )
