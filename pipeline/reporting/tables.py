"""Tables of the paper as views on runs: measured mask AP on novel categories beside the published value.

One data frame holds a table; CSV keeps it at full precision, Markdown and LaTeX round to 0.1 when printed. A row
without a result on the chosen dataset says why ("not run", "failed", ...), a cited method shows published values alone.
"""

import json
import re
from html import escape as escape_html

import pandas as pd

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.declaration.experiments import lookup
from pipeline.reporting import measured, published
from pipeline.reporting.files import replacing, write_text
from pipeline.reporting.measured import METRICS

KEYS = ["row", "backbone", "schedule", "run", "dataset", "direction", "state", "seeds", "agrees", "undefined"]
COLUMNS = KEYS + [f"{metric}{suffix}" for metric in METRICS for suffix in ("", "_std", "_published")]
DONE = "done"
EXTENSIONS = ("csv", "md", "tex")
LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "[": "{[}",  # behind the end of a line it would begin an option
        "]": "{]}",
        "*": "{*}",
        "\n": " ",
        "\r": " ",
        "\t": " ",
        "±": r"$\pm$",
        "−": "$-$",
        "–": "--",
        "—": "---",
        "×": r"$\times$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "→": r"$\rightarrow$",
        "λ": r"$\lambda$",
        "σ": r"$\sigma$",
        "δ": r"$\delta$",
        "τ": r"$\tau$",
    }
)
LATEX_METRICS = {
    "mAP": "mAP",
    "AP50": "AP$_{50}$",
    "AP75": "AP$_{75}$",
    "APs": "AP$_{S}$",
    "APm": "AP$_{M}$",
    "APl": "AP$_{L}$",
}


def build_table(table_id):
    """Write `reports/<dataset>/tables/<table_id>.{csv,md,tex}` for the chosen dataset.

    Raises:
        ExperimentError: unknown table, run or published row, or a result file that cannot be right.
    """
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    frame = table_frame(table_id, declared, dataset)
    with replacing(paths.table(dataset, table_id, "csv")) as path:
        frame.to_csv(path, index=False, lineterminator="\n")
    write_text(paths.table(dataset, table_id, "md"), markdown(table_id, frame, declared, dataset))
    write_text(paths.table(dataset, table_id, "tex"), latex(table_id, frame, declared, dataset))


def table_frame(table_id, declared, dataset):
    """Return the table as a data frame with the columns `COLUMNS`, a line for each row and direction.

    APs are percentages at full precision, the mean over the seeds and (from two seeds on) their sample standard
    deviation; NaN where not run, undefined or not published. `seeds` is the JSON list of the seeds averaged, `state`
    is `done` or why there is no result. `agrees` tells on the paper's dataset whether mAP is within the tolerance its
    authors state, and is empty elsewhere. `undefined` says which categories have no mask AP and why. A cited row has
    no run and no dataset, and a line for each direction it was published for.
    """
    table = lookup(declared.tables, table_id, "table")
    lines = [line for row in table["rows"] for line in _lines(row, table, declared, dataset)]
    frame = pd.DataFrame(lines, columns=COLUMNS)
    return frame.astype({name: float for name in COLUMNS if name not in KEYS})


def _lines(row, table, declared, dataset):
    printed = published.row(table["published"], row["published"]) if "published" in row else {"results": {}}
    for name in row.get("runs", []):
        run = declared.runs[name]
        line = {
            "row": row["label"],
            "backbone": declared.backbones[run.backbone]["label"],
            "schedule": run.schedule,
            "run": name,
            "dataset": dataset,
            "direction": run.direction,
        }
        line |= _published(printed["results"], run.direction)
        if (result := measured.result(dataset, run)) is None:
            line["state"] = measured.state(dataset, run)
        else:
            line |= {"state": DONE, "seeds": json.dumps(list(result.seeds))}
            for metric in METRICS:
                line[metric], line[f"{metric}_std"] = result.ap(metric)
            line["undefined"] = undefined_text(result)
            both = pd.notna(line["mAP"]) and line.get("mAP_published") is not None
            if both and published.comparable(dataset, declared):
                # both are printed to 0.1, and so is the tolerance
                line["agrees"] = round(abs(round(line["mAP"], 1) - line["mAP_published"]), 1) <= published.tolerance()
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
                    **values,
                }


def undefined_text(result):
    """Which categories of a result have no mask AP and why; None if all have one."""
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in result.undefined().items()) or None


def _published(printed, direction):
    return {f"{metric}_published": value for metric, value in printed.get(direction, {}).items()}


def comparability(declared, dataset):
    """The sentence that keeps numbers of another dataset from being read as COCO's; empty for COCO itself."""
    if published.comparable(dataset, declared):
        return ""
    entry = declared.dataset(dataset)
    what = "images drawn by a program" if entry["kind"] == "generated" else "not the COCO 2017 of the paper"
    scale = (
        ""
        if entry["profile"] == "full"
        else (
            f"; backbones and schedules are those of the scaled-down profile {entry['profile']}, which only bear the "
            "names of the paper's"
        )
    )
    return (
        f"Measured numbers are on the dataset {dataset} ({what}{scale}), published ones on COCO val2017: "
        "the two are not comparable, at most the order of the rows is."
    )


def caption(table_id, frame, declared, dataset):
    """One sentence on what the table shows and on which dataset, as plain text."""
    directions = " and ".join(frame["direction"].unique())
    text = (
        f"{declared.tables[table_id]['title']}. Mask AP (%) on the novel categories of {dataset} "
        f"({directions}), measured beside published."
    )
    text = " ".join([text, *notes(frame)])
    return f"{text} {comparability(declared, dataset)}".strip()


def number(value):
    """Format an AP in percent with one decimal; a dash where undefined."""
    return "–" if pd.isna(value) else f"{value:.1f}"


def difference(value):
    """Format a difference of two APs with its sign (a true minus); a dash where one is undefined."""
    return "–" if pd.isna(value) else f"{value:+.1f}".replace("-", "−")


def is_run(frame):
    """Which lines have a result."""
    return frame["state"] == DONE


def is_cited(frame):
    """Which lines belong to a method that is only cited."""
    return frame["run"].isna()


def best(frame, metric):
    """Mark the best measured value of a metric in each direction where it lies beyond the spread of the seeds.

    That is where its mean less its standard deviation is above mean plus standard deviation of every other row, and the
    two differ as printed. A value of a single seed has no known spread: nothing is best beside it.
    """
    marks = pd.Series(False, index=frame.index)
    for _, rows in frame[is_run(frame)].groupby("direction"):
        values, spread = rows[metric].dropna(), rows[f"{metric}_std"]
        if len(values) > 1:
            top, others = values.idxmax(), values.index.drop(values.idxmax())
            beyond = values[top] - spread[top] > (values + spread)[others].max(skipna=False)
            marks[top] = beyond and values[top].round(1) > values[others].max().round(1)
    return marks


def shown_metrics(frame):
    """mAP and the other metrics that are defined for some row; all of them as long as nothing was measured."""
    rows = frame[is_run(frame)]
    return [metric for metric in METRICS if rows.empty or metric == METRICS[0] or rows[metric].notna().any()]


def notes(frame):
    """Sentences on what is not marked, not shown or not defined, as plain text."""
    found = []
    rows = frame[is_run(frame)]
    if len(rows) > 1 and not any(best(frame, metric).any() for metric in METRICS):
        single = rows["mAP_std"].isna() & rows["mAP"].notna()
        found.append(
            "No value is marked as the best: "
            + ("one seed tells no spread." if single.any() else "none lies beyond the spread of the seeds.")
        )
    if hidden := [metric for metric in METRICS if metric not in shown_metrics(frame)]:
        found.append(f"Not shown, as undefined for every row: {', '.join(hidden)}.")
    reasons = {}
    for line in rows[rows["undefined"].notna()].itertuples():
        reasons.setdefault(line.undefined, []).append(line.run)
    found += [undefined_sentence(runs, reason) for reason, runs in reasons.items()]
    return found


def undefined_sentence(runs, reason):
    """What stands below a table for runs whose mask AP is undefined in part or as a whole."""
    return f"Undefined mask AP of {', '.join(runs)}: {reason}."


def _undefined(frame):
    """Which lines have a result whose mask AP could not be defined, for the reasons in `undefined`."""
    return is_run(frame) & frame["mAP"].isna() & frame["undefined"].notna()


def display_frame(frame, bold):
    """Return the table as people read it, every cell a string `measured ± deviation (published, difference)`.

    The difference is given on the data of the paper alone. `bold` wraps a best value in the markup of the page.
    Backbone, schedule and direction are shown where they vary.
    """
    cited = is_cited(frame)
    shown = pd.DataFrame({"Row": [f"{row} (cited)" if c else row for row, c in zip(frame["row"], cited, strict=True)]})
    for column in varying(frame):
        shown[column.capitalize()] = frame[column]
    run, undefined = is_run(frame), _undefined(frame)
    for metric in shown_metrics(frame):
        marks = best(frame, metric)
        shown[metric] = [
            _cell(line, metric, run[i], cited[i], bold if marks[i] else str, undefined[i])
            for i, line in frame.iterrows()
        ]
    if frame["agrees"].notna().any():
        shown["within tolerance"] = frame["agrees"].map({True: "yes", False: "no"}).fillna("–")
    return shown


def varying(frame):
    """Which of backbone, schedule and direction tell the rows of a table apart."""
    return [column for column in ("backbone", "schedule", "direction") if frame[column].nunique() > 1]


def _cell(line, metric, run, cited, mark, undefined):
    value, deviation, printed = line[metric], line[f"{metric}_std"], line[f"{metric}_published"]
    if undefined:
        text = "undefined" if metric == METRICS[0] else "–"
    elif run:
        text = mark(number(value)) + ("" if pd.isna(deviation) else f" ± {number(deviation)}")
    else:
        text = _short(line["state"]) if metric == METRICS[0] and not cited else "–"
    if pd.isna(printed):
        return text
    gap = f", {difference(value - printed)}" if pd.notna(line["agrees"]) and pd.notna(value) else ""
    return f"{text} ({number(printed)}{gap})"


def _short(state):
    """The state of a run without the text of an error, which stands below the table."""
    return state.partition(":")[0]


def legend(frame):
    """How to read a cell, as plain text."""
    text = "Each cell: measured"
    if frame["mAP_std"].notna().any():
        text += " mean ± standard deviation over the seeds"
    if frame["mAP_published"].notna().any():
        text += " (published, difference)" if frame["agrees"].notna().any() else " (published)"
    if any(best(frame, metric).any() for metric in METRICS):
        text += "; bold: the best of a column, by more than the standard deviations of it and of the next"
    if frame["agrees"].notna().any():
        text += f"; within tolerance: mAP differs by at most the ±{published.tolerance()} that the authors state"
    return f"{text}."


def gain(table_id, frame, declared, dataset):
    """A sentence on a difference between last and first row that the paper states in words; empty for other tables."""
    if (name := declared.tables[table_id].get("gain")) is None:
        return ""
    claim = published.statement(name)
    stated = f"{difference(claim['delta_mAP'])} stated by the paper on COCO val2017 ({claim['setting']})"
    if not published.comparable(dataset, declared):
        return f"Last row minus first row, mAP: {stated}; compared on COCO alone."
    first, last = frame.iloc[0], frame.iloc[-1]
    here = difference(last["mAP"] - first["mAP"]) if is_run(frame)[[0, len(frame) - 1]].all() else "not run"
    return f"Last row minus first row, mAP: {here} measured on {dataset}; {stated}."


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


def escape_latex(text):
    """Make plain text safe inside LaTeX, whatever it holds: every special character and the symbols used here."""
    return "".join(char for char in str(text) if char.isprintable() or char in "\n\r\t").translate(LATEX_ESCAPES)


def latex(table_id, frame, declared, dataset):
    """Render the table as a LaTeX float for `\\input`; needs `\\usepackage{booktabs}` alone.

    Directions stand side by side as in the paper's Table 1; every row has a line for what was measured, one for what
    was published and, on the data of the paper, one for the difference.
    """
    metrics = shown_metrics(frame)
    directions = [escape_latex(direction) for direction in dict.fromkeys(frame["direction"])]
    labels = [column for column in varying(frame) if column != "direction"]
    marks = {metric: best(frame, metric) for metric in metrics}
    undefined, cited, run = _undefined(frame), is_cited(frame), is_run(frame)
    lines = {}
    for i, line in frame.iterrows():
        # rows of one name differ in backbone or schedule
        key = (*(escape_latex(line[column]) for column in labels), escape_latex(line["row"]))
        cells = {}
        if undefined[i]:
            cells["measured"] = ["undefined"] + ["--"] * (len(metrics) - 1)
        elif run[i]:
            cells["measured"] = [_latex_measured(line, metric, marks[metric][i]) for metric in metrics]
        elif not cited[i]:
            cells["measured"] = [escape_latex(_short(line["state"]))] + ["--"] * (len(metrics) - 1)
        if pd.notna(line["mAP_published"]):
            cells["cited" if cited[i] else "published"] = [
                number(line[f"{metric}_published"]).replace("–", "--") for metric in metrics
            ]
            if run[i] and pd.notna(line["agrees"]):
                gaps = [line[metric] - line[f"{metric}_published"] for metric in metrics]
                cells["difference"] = ["--" if pd.isna(gap) else f"${gap:+.1f}$" for gap in gaps]
        for kind, values in cells.items():
            for metric, value in zip(metrics, values, strict=True):
                lines.setdefault((*key, kind), {})[escape_latex(line["direction"]), LATEX_METRICS[metric]] = value
    columns = pd.MultiIndex.from_product([directions, [LATEX_METRICS[metric] for metric in metrics]])
    body = pd.DataFrame(list(lines.values()), index=pd.MultiIndex.from_tuples(lines), columns=columns).fillna("--")
    if len(directions) == 1:
        body.columns = body.columns.droplevel(0)
    text = body.style.to_latex(
        hrules=True,
        clines="skip-last;data",
        multirow_align="naive",
        multicol_align="c",
        column_format="l" * (len(labels) + 2) + "r" * len(columns),
        environment="table*",
        position="tb",
        position_float="centering",
        label=f"tab:{table_id}",
        caption=escape_latex(caption(table_id, frame, declared, dataset)),
    )
    size, gap = (r"\scriptsize", "2.5pt") if len(directions) > 1 else (r"\footnotesize", "4pt")
    text = text.replace(r"\begin{tabular}", f"{size}\n\\setlength{{\\tabcolsep}}{{{gap}}}\n\\begin{{tabular}}")
    if len(directions) > 1:
        first, width = len(labels) + 3, len(metrics)
        starts = range(first, first + width * len(directions), width)
        rules = "".join(rf"\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts)
        head, newline, rest = text.partition("\\\\\n")
        text = head + newline + rules + "\n" + rest
    # Space instead of rules between the rows, as booktabs recommends.
    rule = re.compile(rf"\\cline{{\d+-{len(labels) + 2 + len(columns)}}}\n?")
    lines = []
    for line in text.splitlines():
        if not rule.match(line):
            lines.append(line)
        elif lines[-1] != r"\addlinespace":
            lines.append(r"\addlinespace")
    text = "\n".join(lines) + "\n"
    return text.replace("\\addlinespace\n\\bottomrule", r"\bottomrule")


def _latex_measured(line, metric, mark):
    text = number(line[metric]).replace("–", "--")
    text = rf"\textbf{{{text}}}" if mark else text
    deviation = line[f"{metric}_std"]
    return text if pd.isna(deviation) else rf"{text} $\pm$ {number(deviation)}"
