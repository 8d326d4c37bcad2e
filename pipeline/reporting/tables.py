"""Tables of the paper as views on runs: what their task measures on its main group beside the published value.

One data frame holds a table and knows its task; CSV keeps it at full precision, Markdown and LaTeX round to 0.1. A row
without a result on the chosen dataset says why ("not run", "failed", ...), a cited method shows published values alone.
"""

import json
import re
from html import escape as escape_html

import pandas as pd

from pipeline import methods, tasks
from pipeline.declaration import experiments, schema
from pipeline.declaration.experiments import lookup
from pipeline.errors import ExperimentError
from pipeline.reporting import deviations, marks, measured, published
from pipeline.reporting.study import BETTER, UNKNOWN, WORSE

OPTIONAL = ["layers", "differs"]  # columns behind the others, where a row of the table has them
KEYS = ["row", "backbone", "schedule", "run", "dataset", "direction", "state", "seeds", "agrees", "undefined"]
DONE = "done"
DIFFERENCES = "Trained otherwise than the published rows, as far as that is known:"


def table_frame(table_id, declared, dataset):
    """Return the table as a data frame with the columns `columns(task)`, a line for each row and direction.

    Values are in the unit of their metric at full precision, the mean over the seeds and (from two seeds on) their
    sample standard deviation; NaN where not run, undefined or not published. `seeds` is the JSON list of the seeds
    averaged, `state` is `done` or why there is no result; there is no line for a direction that the data set lacks.
    `agrees` tells on the paper's dataset whether the main metric is within the tolerance its authors state, and is
    empty elsewhere. `undefined` says which categories could not be scored and why. On drawn data the verdict of a
    metric tells if it is better or worse than in the reference row, see
    `marks.add`. A cited row has no run and no dataset, and a line for each direction it was published for.
    `layers` are the convolutions of the mask head as the paper counts them, `differs` is what a measured row was
    trained with otherwise than the published one, see `deviations`; tables without them have no such columns.
    `task_of` gives the task.

    Raises:
        ExperimentError: the table shows runs of several tasks, or what a line of it needs is unknown or malformed.
    """
    table = lookup(declared.tables, table_id, "table")
    task = _task(table_id, table, declared)
    lines = [line for row in table["rows"] for line in _lines(row, table, declared, dataset)]
    further = [name for name in OPTIONAL if any(line.get(name) for line in lines)]
    frame = pd.DataFrame(lines, columns=columns(task) + further)
    texts = [*KEYS, *(f"{metric}_verdict" for metric in task.keys)]
    frame = frame.astype({name: object if name in texts else float for name in columns(task)})
    frame = frame.astype(dict.fromkeys(further, object))
    frame.attrs |= {"task": task.name, "published": table.get("published")}
    marks.add(frame, table, declared, dataset)
    return frame


def columns(task):
    """The columns of a table of a task: what a line is of, then each metric, its deviation, its published value and
    whether it can be told from the reference row.
    """
    suffixes = ("", "_std", "_published", "_verdict")
    return KEYS + [f"{metric}{suffix}" for metric in task.keys for suffix in suffixes]


def task_of(frame):
    """The `pipeline.tasks.Task` whose metrics a table holds."""
    return tasks.task(frame.attrs["task"])


def tolerance(frame):
    """How far the authors of the published numbers of a table say its main metric wanders; None if they do not."""
    return published.tolerance(main(frame), frame.attrs["published"])


def _task(table_id, table, declared):
    shown = {run: methods.task_of(declared.runs[run].method).name for run in experiments.runs_of(table)}
    if len(set(shown.values())) > 1:
        several = ", ".join(f"{run} ({task})" for run, task in shown.items())
        raise ExperimentError(
            f"tables.{table_id}: its runs are of several tasks, {several}; make a table for each task"
        )
    return tasks.task(next(iter(shown.values()), tasks.FIRST))


def _lines(row, table, declared, dataset):
    printed = published.row(table["published"], row["published"]) if "published" in row else {"results": {}}
    for name in experiments.made(declared, row.get("runs", []), dataset):
        run = declared.runs[name]
        line = {
            "row": row["label"],
            "backbone": declared.backbones[run.backbone]["label"],
            "schedule": run.schedule,
            "run": name,
            "dataset": run.on(dataset),
            "direction": run.direction,
            "layers": str(row["layers"]) if "layers" in row else None,
        }
        line |= _published(printed["results"], run.direction)
        if "published" in row:
            line["differs"] = deviations.of_run(run, declared.profile(run.on(dataset))) or None
        if (result := measured.result(dataset, run)) is None:
            line["state"] = measured.state(dataset, run)
        else:
            line |= {"state": DONE, "seeds": json.dumps(list(result.seeds))}
            for metric in result.task.keys:
                line[metric], line[f"{metric}_std"] = result.value(metric)
            line["undefined"] = undefined_text(result)
            key = result.task.main[2]
            value, beside, tolerance = (
                line[key],
                line.get(f"{key}_published"),
                published.tolerance(key, table.get("published")),
            )
            known = pd.notna(value) and beside is not None and tolerance is not None
            if known and published.comparable(run.on(dataset), declared):
                # both are printed to 0.1, and so is the tolerance
                line["agrees"] = round(abs(round(value, 1) - beside), 1) <= tolerance
        yield line
    if "runs" not in row:
        for direction in printed["results"]:
            values = _published(printed["results"], direction)
            if any(value is not None for value in values.values()):
                yield {
                    "row": row["label"],
                    "backbone": printed["backbone"],
                    "schedule": printed["schedule"],
                    "direction": direction,
                    "state": "cited",
                    "layers": str(row["layers"]) if "layers" in row else None,
                    **values,
                }


def undefined_text(result):
    """Which categories of a result could not be scored and why; None if all could."""
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in result.undefined().items()) or None


def _published(printed, direction):
    return {f"{metric}_published": value for metric, value in printed.get(direction, {}).items()}


def comparability(declared, dataset):
    """The sentence that keeps numbers of another dataset from being read as COCO's; empty for COCO itself."""
    if published.comparable(dataset, declared):
        return ""
    entry = declared.dataset(dataset)
    drawn = entry["kind"] in ("generated", "drawn_maps")
    holds = schema.holds(entry["kind"])
    paper, printed = "the data" if holds == "maps" else "the COCO 2017", published.PAPERS[holds][1]
    what = "images drawn by a program" if drawn else f"not {paper} of the paper"
    scale = (
        ""
        if entry["profile"] == "full"
        else (
            f"; backbones and schedules are those of the scaled-down profile {entry['profile']}, which only bear the "
            "names of the paper's"
        )
    )
    return (
        f"Measured numbers are on the dataset {dataset} ({what}{scale}), published ones on {printed}: "
        "the two are not comparable, at most the order of the rows is."
    )


def caption(table_id, frame, declared, dataset):
    """One sentence on what the table shows and on which dataset, as plain text."""
    task, directions = task_of(frame), " and ".join(frame["direction"].unique())
    datasets = list(frame["dataset"].dropna().unique()) or [dataset]
    what = f"{initial(task.words())} ({task.main_metric.unit})"
    text = (
        f"{declared.tables[table_id]['title']}. {what} on the {task.main_group} categories of {' and '.join(datasets)} "
        f"({directions}), measured beside published."
    )
    text = " ".join([text, *notes(frame)])
    return " ".join(filter(None, (text, *(comparability(declared, name) for name in datasets))))


def label_of(name):
    """How the page calls a table: its number in the paper, or else its name."""
    return re.sub(r"^table(?=\d)", "table ", name).replace("_", " ").capitalize()


def initial(text):
    """A text with its first letter in upper case, unless it begins with a name such as `mIoU`."""
    first = text.partition(" ")[0]
    return text if first != first.lower() else text[:1].upper() + text[1:]


def number(value):
    """Format a score with one decimal; a dash where undefined."""
    return "–" if pd.isna(value) else f"{value:.1f}"


def difference(value):
    """Format a difference of two scores with its sign (a true minus); a dash where one is undefined."""
    return "–" if pd.isna(value) else f"{value:+.1f}".replace("-", "−")


def is_run(frame):
    """Which lines have a result."""
    return frame["state"] == DONE


def is_cited(frame):
    """Which lines belong to a method that is only cited."""
    return frame["run"].isna()


def best(frame, metric):
    """Mark the best measured value of a metric in each direction of a dataset where it is beyond the seeds' spread.

    That is where its mean less its standard deviation is above mean plus standard deviation of every other row, and the
    two differ as printed; where lower is better, the other way round. A value of a single seed has no known spread:
    nothing is best beside it.
    """
    sign = -1 if task_of(frame).metric(metric).lower_is_better else 1
    marks = pd.Series(False, index=frame.index)
    for _, rows in frame[is_run(frame)].groupby(["dataset", "direction"]):
        values, spread = sign * rows[metric].dropna(), rows[f"{metric}_std"]
        if len(values) > 1:
            top, others = values.idxmax(), values.index.drop(values.idxmax())
            beyond = values[top] - spread[top] > (values + spread)[others].max(skipna=False)
            marks[top] = beyond and values[top].round(1) > values[others].max().round(1)
    return marks


def main(frame):
    """Key of the metric by which rows are compared."""
    return task_of(frame).main[2]


def shown_metrics(frame):
    """The main metric and the others that are defined for some row; all of them as long as nothing was measured."""
    task, rows = task_of(frame), frame[is_run(frame)]
    return [m for m in task.metrics if rows.empty or m == task.main_metric or rows[m.key].notna().any()]


def notes(frame):
    """Sentences on what is not marked, not shown or not defined, as plain text."""
    found, task = [], task_of(frame)
    rows, key = frame[is_run(frame)], main(frame)
    if len(rows) > 1 and not any(best(frame, metric).any() for metric in task.keys):
        single = rows[f"{key}_std"].isna() & rows[key].notna()
        found.append(
            "No value is marked as the best: "
            + ("one seed tells no spread." if single.any() else "none lies beyond the spread of the seeds.")
        )
    if lower := [metric.label for metric in shown_metrics(frame) if metric.lower_is_better]:
        found.append(f"Lower is better: {', '.join(lower)}.")
    if hidden := [metric.label for metric in task.metrics if metric not in shown_metrics(frame)]:
        found.append(f"Not shown, as undefined for every row: {', '.join(hidden)}.")
    reasons = {}
    for line in rows[rows["undefined"].notna()].itertuples():
        reasons.setdefault(line.undefined, []).append(line.run)
    found += [undefined_sentence(task, runs, reason) for reason, runs in reasons.items()]
    return found


def undefined_sentence(task, runs, reason):
    """What stands below a table for runs whose main number is undefined in part or as a whole."""
    return f"Undefined {task.words()} of {', '.join(runs)}: {reason}."


def is_undefined(frame):
    """Which lines have a result whose main number could not be defined, for the reasons in `undefined`."""
    return is_run(frame) & frame[main(frame)].isna() & frame["undefined"].notna()


def display_frame(frame, bold):
    """Return the table as people read it, every cell a string `measured ± deviation (published, difference)`.

    The difference is given on the data of the paper alone. `bold` wraps a best value in the markup of the page.
    Backbone, schedule, dataset and direction are shown where they vary.
    """
    cited = is_cited(frame)
    shown = pd.DataFrame({"Row": [f"{row} (cited)" if c else row for row, c in zip(frame["row"], cited, strict=True)]})
    for column in telling(frame):
        shown[column.capitalize()] = frame[column].fillna("–")
    run, undefined, first = is_run(frame), is_undefined(frame), main(frame)
    for metric in shown_metrics(frame):
        marks = best(frame, metric.key)
        shown[metric.label] = [
            _cell(line, metric.key, first, run[i], cited[i], bold if marks[i] else str, undefined[i])
            for i, line in frame.iterrows()
        ]
    if frame["agrees"].notna().any():
        shown["within tolerance"] = frame["agrees"].map({True: "yes", False: "no"}).fillna("–")
    return shown


def varying(frame):
    """Which of backbone, schedule, dataset and direction tell the rows of a table apart."""
    return [column for column in ("backbone", "schedule", "dataset", "direction") if frame[column].nunique() > 1]


def telling(frame):
    """The columns that say what a row is: `varying` ones, and the layers of mask heads where a table has them."""
    return [*varying(frame), *(["layers"] if "layers" in frame else [])]


def _cell(line, metric, first, run, cited, mark, undefined):
    value, deviation, printed = line[metric], line[f"{metric}_std"], line[f"{metric}_published"]
    if undefined:
        text = "undefined" if metric == first else "–"
    elif run:
        text = mark(number(value)) + ("" if pd.isna(deviation) else f" ± {number(deviation)}") + sign(line, metric)
    else:
        text = short(line["state"]) if metric == first and not cited else "–"
    if pd.isna(printed):
        return text
    gap = f", {difference(value - printed)}" if pd.notna(line["agrees"]) and pd.notna(value) else ""
    return f"{text} ({number(printed)}{gap})"


def sign(line, metric):
    """The sign behind a value that tells if it is distinguishable from the reference row; empty where that is open."""
    verdict = line[f"{metric}_verdict"]
    return "" if pd.isna(verdict) else f" {marks.SIGNS[verdict]}"


def short(state):
    """The state of a run without the text of an error, which stands below the table."""
    return state.partition(":")[0]


def legend(frame):
    """How to read a cell, as plain text."""
    text, metric = "Each cell: measured", task_of(frame).main_metric
    if frame[f"{metric.key}_std"].notna().any():
        text += " mean ± standard deviation over the seeds"
    if frame[f"{metric.key}_published"].notna().any():
        text += " (published, difference)" if frame["agrees"].notna().any() else " (published)"
    if any(best(frame, key).any() for key in task_of(frame).keys):
        text += "; bold: the best of a column, by more than the standard deviations of it and of the next"
    if frame["agrees"].notna().any():
        stated = tolerance(frame)
        text += f"; within tolerance: {metric.label} differs by at most the ±{stated} that the authors state"
    if "layers" in frame:
        text += "; layers: convolutions of the mask head as the paper counts them"
    return " ".join(filter(None, (f"{text}.", told(frame))))


def told(frame):
    """What the signs behind values mean and where the noise comes from, or why there are none; empty without either."""
    reference, text = frame.attrs["reference"], frame.attrs["marks"]
    better, worse, unknown = (marks.SIGNS[verdict] for verdict in (BETTER, WORSE, UNKNOWN))
    means = f"{better} better, {worse} worse than the row {reference}, {unknown} not to be told from it."
    return f"{means} {text}" if reference else text


def gain(table_id, frame, declared, dataset):
    """A sentence on a difference between last and first row that the paper states in words; empty for other tables."""
    if (name := declared.tables[table_id].get("gain")) is None:
        return ""
    claim, metric = published.statement(name), task_of(frame).main_metric
    stated = f"{difference(claim['delta'][metric.key])} stated by the paper on COCO val2017 ({claim['setting']})"
    if not published.comparable(dataset, declared):
        return f"Last row minus first row, {metric.label}: {stated}; compared on COCO alone."
    first, last = frame.iloc[0], frame.iloc[-1]
    here = difference(last[metric.key] - first[metric.key]) if is_run(frame)[[0, len(frame) - 1]].all() else "not run"
    return f"Last row minus first row, {metric.label}: {here} measured on {dataset}; {stated}."


def differences(frame):
    """What measured rows were trained with otherwise than the published ones beside them, as a list of Markdown."""
    found = deviations.lines(frame)
    return "\n".join([f"{DIFFERENCES}\n", *(f"- {line}" for line in found)]) if found else ""


def not_run(frame):
    """{run: state} of the runs without a result, in the order of the table."""
    return {line.run: line.state for line in frame[~is_run(frame) & ~is_cited(frame)].itertuples()}


def markdown(table_id, frame, declared, dataset):
    """Render the table for a page: caption, cells, and the command that makes each run that is missing."""
    shown = display_frame(frame, "**{}**".format)
    parts = [
        caption(table_id, frame, declared, dataset),
        shown.to_markdown(index=False, disable_numparse=True),
        legend(frame),
        gain(table_id, frame, declared, dataset),
        differences(frame),
    ]
    parts = [part for part in parts if part]
    states = {}
    for run, state in not_run(frame).items():
        states.setdefault(state, []).append(run)
    parts += [
        f"No result on {dataset}, {state}: {', '.join(f'`{run}`' for run in runs)}; make it with "
        f"`{measured.evaluate_command(*runs)}`."
        for state, runs in states.items()
    ]
    return "\n\n".join(parts) + "\n"


def html(frame):
    """Render the cells as an HTML table; every text is escaped, whoever declared it."""
    texts = ["row", "backbone", "schedule", "direction", "state"]
    escaped = frame.assign(
        **{name: frame[name].map(lambda text: escape_html(str(text)), na_action="ignore") for name in texts}
    )
    return display_frame(escaped, "<strong>{}</strong>".format).to_html(index=False, escape=False, border=0)
