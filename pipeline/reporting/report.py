"""The page that shows what ran, the tables and the figures: README.md and index.html in reports/<dataset>/.

Both are rendered from one description. The same results give the same bytes of README.md. index.html adds commit,
machine, training hours and links to MLflow, carries its pictures inside and needs no network.
"""

import base64
import math
import re
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from pipeline import methods, tasks
from pipeline.artifacts import files, paths
from pipeline.declaration import config, experiments, schema
from pipeline.errors import ExperimentError
from pipeline.reporting import deviations, figures, measured, provenance, published, tables
from pipeline.reporting.agreement import agreement

TEMPLATES = Path(__file__).with_name("templates")
UNREADABLE = "result unreadable"
LEAD_TABLE, LEAD_KINDS = "table2", ("qualitative", "split_maps")  # what the page begins with, of what is chosen
UNDEFINED = "undefined"
NAMED_RUNS = 4  # more are not named one by one in a command


def build_report(links=None):
    """Write README.md and index.html in reports/<dataset>/: the chosen tables, figures and runs on the chosen dataset.

    What is missing is stated with the command that makes it. A file that cannot be right is stated as well,
    the rest of the page is written, and then the error is raised.

    Args:
        links: addresses in MLflow, {run: {fingerprint: address}}, if known.

    Returns:
        {run: {name in MLflow: main number of its task}} of the runs with a result.

    Raises:
        ExperimentError: a result file is malformed, or selection.yaml is not up to date.
    """
    dataset = experiments.chosen_dataset()
    content, results = describe(dataset)
    folder = paths.reports(dataset)
    files.write_text(folder / "README.md", render("README.md", content))
    files.write_text(folder / "index.html", render("index.html", content | origin(dataset, content, links)))
    if content["problems"]:
        raise ExperimentError("; ".join(content["problems"]))
    scores = {name: (result.task.tracked(*result.task.main), result.value()[0]) for name, result in results.items()}
    return {name: {key: value} for name, (key, value) in scores.items() if not math.isnan(value)}


def describe(dataset):
    """What both pages are rendered from, and the results behind it.

    Returns:
        ({name in the templates: value}, {run name: measured.Result}).

    Raises:
        ExperimentError: selection.yaml is not up to date.
    """
    declared = experiments.load()
    selection = experiments.selected(declared)
    chosen = {name: declared.runs[name] for name in experiments.runs_chosen(selection)}
    results, problems = read_results(chosen, dataset)
    sections = [table_section(name, declared, dataset) for name in selection["tables"]]
    built = {section["name"]: section for section in sections if "frame" in section}
    content = {
        "dataset": dataset,
        "entry": declared.dataset(dataset),
        "comparability": tables.comparability(declared, dataset),
        "paper": published.PAPERS[schema.holds(declared.dataset(dataset)["kind"])][0],
        "problems": list(problems.values()),
        "runs": [run_line(run, declared, dataset, results, problems) for run in chosen.values()],
        "tables": sections,
        "unchosen": [name for name in declared.tables if name not in selection["tables"]],
        "agreement": agreement(
            {name: section["frame"] for name, section in built.items()},
            {name: section["label"] for name, section in built.items()},
            dataset,
        ),
        "free": [free_section(run, chosen, results) for run in chosen.values() if not run.pinned],
        "groups": [group_section(task, results) for task in tasks_of(chosen.values())],
        "figures": [figure_section(name, declared, dataset) for name in selection["figures"]],
        "snapshot": None,
    }
    content |= {
        "headline": headline(declared, built, results),
        "lead": next((section for section in content["figures"] if section["kind"] in LEAD_KINDS), None),
        "data_label": figures.data_label(declared, dataset),
    }
    content["done"] = [line["run"] for line in content["runs"] if line["done"]]
    content["waiting"] = absent({line["run"]: line["state"] for line in content["runs"] if not line["done"]})
    return content, results


def render(template, content):
    """Fill `templates/<template>.j2`; in HTML every text is escaped."""
    return "".join(rendering(template, content))


def rendering(template, content):
    """As `render`, piece by piece: what the template loops over may be read meanwhile."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = lambda frame: frame.to_markdown(index=False, disable_numparse=True)
    environment.filters["html"] = lambda frame: Markup(frame.to_html(index=False, border=0))
    environment.filters["duration"] = provenance.duration
    return environment.get_template(f"{template}.j2").generate(content)


def read_results(runs, dataset):
    """Read the result of every run.

    Args:
        runs: {name: pipeline.declaration.experiments.Run}.

    Returns:
        ({run name: Result} of the evaluated runs, {run name: message} of the runs whose file is malformed).
    """
    results, problems = {}, {}
    for name, run in runs.items():
        try:
            if (result := measured.result(dataset, run)) is not None:
                results[name] = result
        except ExperimentError as error:
            problems[name] = str(error)
    return results, problems


def run_line(run, declared, dataset, results, problems):
    """What the page says of a run: its columns, whether it is done and otherwise why not, and its trainings."""
    result = results.get(run.name)
    if run.name in problems:
        state = UNREADABLE
    elif result is None:
        state = measured.state(dataset, run)
    else:
        marked = "; with other code or settings than today's" if measured.outdated(result) else ""
        state = f"done (seed{'s' * (len(result.seeds) > 1)} {', '.join(map(str, result.seeds))}{marked})"
    changes = [f"{knob} = {value}" for knob, value in config.overrides(run, declared.profile(run.on(dataset))).items()]
    return {
        "run": run.name,
        "method": methods.method(run.method).label,
        "backbone": declared.backbones[run.backbone]["label"],
        "schedule": run.schedule,
        "direction": run.direction if run.on(dataset) == dataset else f"{run.direction} on {run.dataset}",
        "knobs": ", ".join(["pinned" if run.pinned else run.knobs, *changes]),
        "done": result is not None,
        "state": state,
        "kind": kind_of(state),
        "command": measured.evaluate_command(run.name),
        "fingerprints": provenance.fingerprints(run.on(dataset), run.name, result),
    }


def kind_of(state):
    """A state without error, progress and seeds: `done`, `not run`, `running`, `failed`, ..."""
    return re.split(r":| at | \(", state)[0]


def absent(states):
    """Group runs without a result by their state, for one command each: [{state, kind, runs, command}]."""
    groups = {}
    for run, state in states.items():
        groups.setdefault(state, []).append(run)
    return [
        {
            "state": state,
            "kind": kind_of(state),
            "runs": runs,
            # launching makes every chosen run that has no result
            "command": measured.evaluate_command(*runs) if len(runs) <= NAMED_RUNS else "python -m commands.launch",
        }
        for state, runs in groups.items()
    ]


def origin(dataset, content, links):
    """What index.html says beyond README.md: commit, machine, versions, training time and addresses in MLflow."""
    trainings = {line["run"]: line["fingerprints"] for line in content["runs"]}
    seconds = {
        fingerprint: provenance.training_seconds(fingerprint)
        for fingerprints in trainings.values()
        for fingerprint in fingerprints.values()
    }
    known = {
        run: [seconds[fingerprint] for fingerprint in fingerprints.values() if seconds[fingerprint] is not None]
        for run, fingerprints in trainings.items()
    }
    return {
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "seconds": {run: sum(values) if values else None for run, values in known.items()},
        # runs with equal settings share one training
        "timed": sum(bool(values) for values in known.values()),
        "total_seconds": sum(value for value in seconds.values() if value is not None),
        "links": {
            run: {
                seed: links[run][fingerprint]
                for seed, fingerprint in fingerprints.items()
                if fingerprint in links.get(run, {})
            }
            for run, fingerprints in trainings.items()
        }
        if links
        else {},
    }


def tasks_of(runs):
    """The tasks of runs, each once, in their order; that of the paper without runs."""
    names = dict.fromkeys(methods.task_of(run.method).name for run in runs) or [tasks.FIRST]
    return [tasks.task(name) for name in names]


def group_section(task, results):
    """Main metric of every evaluated run of a task by group of categories.

    Returns:
        {id, heading, label, unit, frame, undefined, training}: how the page calls it, a data frame as people read it,
        why numbers are undefined, and what the groups are trained with.
    """
    frame = pd.DataFrame(
        [
            {
                "Run": name,
                **{
                    f"{task.words(kind)}, {group}": _defined(*result.value(kind=kind, group=group))
                    for kind in task.kinds
                    for group in task.groups
                },
            }
            for name, result in results.items()
            if result.task is task
        ]
    )
    label = f"{task.main_metric.name} by category group"
    return {
        "id": "groups" if task.name == tasks.FIRST else f"groups-{task.name}",
        "unit": task.main_metric.in_unit,
        "heading": tables.initial(f"{' and '.join(task.kinds.values())} {label}".strip()),
        "label": label,
        "frame": frame,
        "undefined": undefined_reasons(task, results),
        "training": task.trained_with,
    }


def _with_deviation(value, deviation):
    return tables.number(value) + ("" if pd.isna(deviation) else f" ± {tables.number(deviation)}")


def table_section(name, declared, dataset):
    """A table of the paper for the page; `problem` instead of cells if one of its files is malformed."""
    title, label = declared.tables[name]["title"], tables.label_of(name)
    section = {
        "name": name,
        "label": label,
        "heading": title if title.startswith(label) else f"{label}: {title}",
        "runs": experiments.made(declared, experiments.runs_of(declared.tables[name]), dataset),
        "command": f"dvc repro tables@{name}",
    }
    try:
        frame = tables.table_frame(name, declared, dataset)
    except ExperimentError as error:
        return section | {"problem": str(error)}
    caption = tables.caption(name, frame, declared, dataset)
    return section | {
        "frame": frame,
        "markdown": tables.markdown(name, frame, declared, dataset).strip(),
        "html": Markup(tables.html(frame)),
        # what the page says once and in the heading, the caption need not say again
        "caption": caption.removeprefix(f"{title}. ").removesuffix(tables.comparability(declared, dataset)).strip(),
        "legend": tables.legend(frame),
        "gain": tables.gain(name, frame, declared, dataset),
        "differences": deviations.lines(frame),
        "absent": absent(tables.not_run(frame)),
    }


def headline(declared, built, results):
    """The numbers that the page begins with: the main metric on novel and base categories of each row of one table.

    Args:
        built: {table id: section of `table_section`} of the chosen tables that could be built.
        results: {run name: Result}.

    Returns:
        {table, label, heading, columns, rows, measured, seeds, metric, training, undefined}: `rows` of texts,
        `measured` the columns (from 1) of scores measured here, `seeds` how many there are, in words, `metric` what is
        shown, `training` what the groups are trained with, `undefined` why numbers are; None without a table.
    """
    name = LEAD_TABLE if LEAD_TABLE in built else next(iter(built), None)
    if name is None:
        return None
    frame = built[name]["frame"]
    task, metric = tables.task_of(frame), tables.task_of(frame).main_metric
    groups = task.parts or task.groups
    frame = frame[~tables.is_cited(frame)]
    telling = tables.varying(frame)
    columns = [*(f"{group.capitalize()} {metric.name}" for group in groups)]
    printed_on = published.PAPERS[task.reads][1]
    columns = ["Method", *map(str.capitalize, telling), *columns]
    printed = frame[f"{metric.key}_published"].notna().any()
    rows = []
    for _, line in frame.iterrows():
        row = [line["row"], *(line[column] for column in telling)]
        if (result := results.get(line["run"])) is None:
            row += [line["state"].partition(":")[0], *["–"] * (len(groups) - 1)]
        else:
            row += [_defined(*result.value(group=group)) for group in groups]
        rows.append([*row, *([tables.number(line[f"{metric.key}_published"])] if printed else [])])
    counts = sorted({len(results[run].seeds) for run in frame["run"] if run in results})
    return {
        "table": name,
        "label": built[name]["label"],
        "heading": built[name]["heading"],
        "columns": [*columns, f"{columns[-len(groups)]}, published ({printed_on})"] if printed else columns,
        "rows": rows,
        "measured": list(range(len(columns) - len(groups) + 1, len(columns) + 1)),
        "seeds": "" if not counts else ", one seed each" if counts == [1] else ", mean ± standard deviation over seeds",
        "metric": f"{tables.initial(task.words())} ({metric.label}, {metric.unit})",
        "training": _novel_first(task),
        "undefined": undefined_reasons(task, results),
    }


def _novel_first(task):
    """What the groups are trained with, the one that runs are compared by first."""
    if not task.supervision:
        return ""
    (base, full), (novel, weak) = task.supervision.items()
    return f"{novel.capitalize()} categories are trained with {weak} alone,\n{base} ones with {full}."


def undefined_reasons(task, results):
    """Why numbers of a task are undefined, a text for each reason: kind of number, categories or groups, and why."""
    reasons = {}
    for result in (result for result in results.values() if result.task is task):
        for kind in task.kinds:
            known = result.reasons(kind)
            groups = [g for g in task.groups if math.isnan(result.value(kind=kind, group=g)[0])]
            # without a stated reason, as in every result on a validation set that lacks a group
            stated = known or {f"{group} categories": "the validation set has no such object" for group in groups}
            for name, reason in stated.items():
                reasons.setdefault((task.words(kind), reason), {})[name] = None
    return [f"{label} of {', '.join(names)}: {reason}" for (label, reason), names in reasons.items()]


def _defined(value, deviation):
    return UNDEFINED if pd.isna(value) else _with_deviation(value, deviation)


def free_section(run, chosen, results):
    """The run that follows params.yaml beside its pinned twin, which differs in the knob file alone."""
    columns = ("method", "backbone", "schedule", "direction")
    pinned = [other for other in chosen.values() if other.pinned and not other.overrides]
    twins = [other.name for other in pinned if all(getattr(other, name) == getattr(run, name) for name in columns)]
    shown = [name for name in (run.name, *twins[:1]) if name in results]
    frame, task = pd.DataFrame({"Run": shown}), methods.task_of(run.method)
    for metric in task.metrics:
        frame[metric.label] = [_defined(*results[name].value(metric.key)) for name in shown]
    if len(shown) == 2:
        ours, theirs = (results[name] for name in shown)
        gaps = [tables.difference(ours.value(key)[0] - theirs.value(key)[0]) for key in task.keys]
        frame.loc[2] = ["difference", *gaps]
    return {
        "run": run.name,
        "twins": twins,
        "what": f"{tables.initial(task.words())} on {task.main_group} categories",
        "frame": frame,
        "changed": changed_knobs(),
        "command": measured.evaluate_command(run.name),
    }


def changed_knobs():
    """Knobs whose value in params.yaml is not the pinned one: [(knob, pinned value, value)]."""
    free, pinned = experiments.read_yaml(paths.PARAMS), experiments.read_yaml(paths.PAPER_KNOBS)
    return [(knob, value, free[knob]) for knob, value in pinned.items() if free.get(knob, value) != value]


def figure_section(name, declared, dataset):
    """A figure for the page; without `picture` if it has not been drawn for this dataset."""
    entry = declared.figures[name]
    section = {
        "name": name,
        "kind": entry["kind"],
        "title": entry["title"],
        "runs": list(dict.fromkeys(series.run.name for series in figures.series_of(entry, declared))),
        "command": f"dvc repro figures@{name}",
    }
    caption = figures.saved_caption(name, dataset)
    if caption is None:
        return section
    picture = base64.b64encode(paths.figure(dataset, name, "png").read_bytes()).decode()
    return section | {"caption": caption, "picture": picture}
