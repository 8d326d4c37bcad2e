"""The page that shows what ran, the tables and the figures: reports/README.md and reports/index.html.

Both are rendered from one description. index.html carries its pictures inside and needs no network.
"""

import base64
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from pipeline import experiments, paths
from pipeline.errors import ExperimentError
from pipeline.reporting import figures, measured, tables
from pipeline.reporting.files import write_text
from pipeline.reporting.measured import GROUPS, KINDS, METRICS

TEMPLATES = Path(__file__).with_name("templates")


def build_report():
    """Write reports/README.md and reports/index.html for the chosen dataset.

    What is missing is stated with the command that makes it. A file that cannot be right is stated as well,
    the rest of the page is written, and then the error is raised.

    Raises:
        ExperimentError: a result file is malformed.
    """
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    results, problems = read_results(declared, dataset)
    content = {
        "dataset": dataset,
        "entry": declared.dataset(dataset),
        "problems": list(problems.values()),
        "runs": run_frame(declared, results, problems),
        "tables": [table_section(name, declared, dataset) for name in declared.tables],
        "free": [free_section(run, declared, results) for run in declared.runs.values() if not run.pinned],
        "groups": group_frame(results),
        "figures": [figure_section(name, entry, dataset) for name, entry in declared.figures.items()],
    }
    for template in ("README.md", "index.html"):
        write_text(paths.ROOT / "reports" / template, render(template, content))
    if problems:
        raise ExperimentError("; ".join(problems.values()))


def render(template, content):
    """Fill `templates/<template>.j2`; in HTML every text is escaped."""
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
    return environment.get_template(f"{template}.j2").render(content)


def read_results(declared, dataset):
    """Read the result of every run.

    Returns:
        ({run name: Result} of the evaluated runs, {run name: message} of the runs whose file is malformed).
    """
    results, problems = {}, {}
    for name, run in declared.runs.items():
        try:
            if (result := measured.result(dataset, run)) is not None:
                results[name] = result
        except ExperimentError as error:
            problems[name] = str(error)
    return results, problems


def run_frame(declared, results, problems):
    """One line a run: what it is, its seeds or why there is no result, and the command that makes it."""
    rows = []
    for name, run in declared.runs.items():
        if name in problems:
            status = "result unreadable"
        else:
            status = "seeds " + ", ".join(map(str, results[name].seeds)) if name in results else "not run"
        rows.append(
            (
                name,
                declared.methods[run.method]["label"],
                declared.backbones[run.backbone]["label"],
                run.schedule,
                run.direction,
                run.knobs,
                status,
                measured.evaluate_command(name),
            )
        )
    return pd.DataFrame(
        rows, columns=["Run", "Method", "Backbone", "Schedule", "Direction", "Knobs", "Status", "Command"]
    )


def group_frame(results):
    """Mask and box AP of every evaluated run on novel, base and all categories, as people read it."""
    return pd.DataFrame(
        [
            {
                "Run": name,
                **{
                    f"{KINDS[kind]} AP, {group}": _with_deviation(*result.ap(kind=kind, group=group))
                    for kind in KINDS
                    for group in GROUPS
                },
            }
            for name, result in results.items()
        ]
    )


def _with_deviation(value, deviation):
    return tables.number(value) + ("" if pd.isna(deviation) else f" ± {tables.number(deviation)}")


def table_section(name, declared, dataset):
    """A table of the paper for the page; `problem` instead of cells if one of its files is malformed."""
    section = {"name": name, "title": declared.tables[name]["title"], "command": f"dvc repro tables@{name}"}
    try:
        frame = tables.table_frame(name, declared, dataset)
    except ExperimentError as error:
        return section | {"problem": str(error)}
    return section | {
        "markdown": tables.markdown(name, frame, declared, dataset).strip(),
        "html": Markup(tables.html(frame)),
        "caption": tables.caption(name, frame, declared, dataset),
        "legend": tables.legend(frame),
        "missing": [{"run": run, "command": measured.evaluate_command(run)} for run in tables.not_run(frame)],
    }


def free_section(run, declared, results):
    """The run that follows params.yaml beside its pinned twin, which differs in the knob file alone."""
    columns = ("method", "backbone", "schedule", "direction")
    pinned = [other for other in declared.runs.values() if other.pinned and not other.overrides]
    twins = [
        other.name for other in pinned if all(getattr(other, name) == getattr(run, name) for name in columns)
    ]
    shown = [name for name in (run.name, *twins[:1]) if name in results]
    frame = pd.DataFrame({"Run": shown})
    for metric in METRICS:
        frame[metric] = [_with_deviation(*results[name].ap(metric)) for name in shown]
    if len(shown) == 2:
        ours, theirs = (results[name] for name in shown)
        gaps = [tables.difference(ours.ap(metric)[0] - theirs.ap(metric)[0]) for metric in METRICS]
        frame.loc[2] = ["difference", *gaps]
    return {
        "run": run.name,
        "twins": twins,
        "frame": frame,
        "changed": changed_knobs(),
        "command": measured.evaluate_command(run.name),
    }


def changed_knobs():
    """Knobs whose value in params.yaml is not that of pipeline/paper.yaml: [(knob, pinned value, value)]."""
    free, pinned = experiments.read_yaml(paths.PARAMS), experiments.read_yaml(paths.PAPER_KNOBS)
    return [(knob, value, free[knob]) for knob, value in pinned.items() if free.get(knob, value) != value]


def figure_section(name, entry, dataset):
    """A figure for the page; without `picture` if it has not been drawn for this dataset."""
    section = {"name": name, "title": entry["title"], "command": f"dvc repro figures@{name}"}
    caption = figures.saved_caption(name, dataset)
    if caption is None:
        return section
    picture = base64.b64encode(paths.figure(name, "png").read_bytes()).decode()
    return section | {"caption": caption, "picture": picture}
