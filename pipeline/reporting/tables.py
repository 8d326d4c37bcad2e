"""Tables of the paper as views on runs: measured mask AP on novel categories beside the published value.

One data frame holds a table; CSV keeps it at full precision, Markdown and LaTeX round to 0.1 when printed. A
row whose run has no result on the chosen dataset says "not run", a cited method shows published values alone.
"""

import json
from html import escape as escape_html

import pandas as pd

from pipeline import experiments, paths
from pipeline.experiments import lookup
from pipeline.reporting import measured, published
from pipeline.reporting.files import replacing, write_text
from pipeline.reporting.measured import METRICS

KEYS = ["row", "run", "dataset", "direction", "seeds"]
COLUMNS = KEYS + [f"{metric}{suffix}" for metric in METRICS for suffix in ("", "_std", "_published")]
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
    """Write `reports/tables/<table_id>.{csv,md,tex}` for the chosen dataset.

    Raises:
        ExperimentError: unknown table, run or published row, or a result file that cannot be right.
    """
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    frame = table_frame(table_id, declared, dataset)
    with replacing(paths.table(table_id, "csv")) as path:
        frame.to_csv(path, index=False, lineterminator="\n")
    write_text(paths.table(table_id, "md"), markdown(table_id, frame, declared, dataset))
    write_text(paths.table(table_id, "tex"), latex(table_id, frame, declared, dataset))


def table_frame(table_id, declared, dataset):
    """Return the table as a data frame with the columns `COLUMNS`.

    APs are percentages at full precision, the mean over the seeds and (from two seeds on) their sample
    standard deviation; NaN where not run, undefined or not published. `seeds` is the JSON list of the seeds
    averaged. A cited row has no run and no dataset, and one line for each direction it was published for.
    """
    table = lookup(declared.tables, table_id, "table")
    lines = [line for row in table["rows"] for line in _lines(row, table, declared, dataset)]
    frame = pd.DataFrame(lines, columns=COLUMNS)
    return frame.astype({name: float for name in COLUMNS if name not in KEYS})


def _lines(row, table, declared, dataset):
    printed = published.row(table["published"], row["published"])["results"] if "published" in row else {}
    if "run" not in row:
        for direction in [row["direction"]] if "direction" in row else printed:
            yield {"row": row["label"], "direction": direction} | _published(printed, direction)
        return
    run = declared.run(row["run"])
    line = {"row": row["label"], "run": run.name, "dataset": dataset, "direction": run.direction}
    if (result := measured.result(dataset, run)) is not None:
        line["seeds"] = json.dumps(list(result.seeds))
        for metric in METRICS:
            line[metric], line[f"{metric}_std"] = result.ap(metric)
    yield line | _published(printed, run.direction)


def _published(printed, direction):
    return {f"{metric}_published": value for metric, value in printed.get(direction, {}).items()}


def comparability(declared, dataset):
    """The sentence that keeps numbers of another dataset from being read as COCO's; empty for COCO itself."""
    if dataset == published.DATASET:
        return ""
    generated = declared.dataset(dataset)["kind"] == "generated"
    what = "images drawn by a program" if generated else "not the COCO 2017 of the paper"
    return (
        f"Measured numbers are on the dataset {dataset} ({what}), published ones on COCO val2017: "
        "the two are not comparable, at most the order of the rows is."
    )


def caption(table_id, frame, declared, dataset):
    """One sentence on what the table shows and on which dataset, as plain text."""
    directions = " and ".join(frame["direction"].unique())
    text = (
        f"{declared.tables[table_id]['title']}. Mask AP (%) on the novel categories of {dataset} "
        f"({directions}), measured beside published."
    )
    return f"{text} {comparability(declared, dataset)}".strip()


def number(value):
    """Format an AP in percent with one decimal; a dash where undefined."""
    return "–" if pd.isna(value) else f"{value:.1f}"


def difference(value):
    """Format a difference of two APs with its sign (a true minus); a dash where one is undefined."""
    return "–" if pd.isna(value) else f"{value:+.1f}".replace("-", "−")


def is_run(frame):
    """Which lines have a result."""
    return frame["seeds"].notna()


def is_cited(frame):
    """Which lines belong to a method that is only cited."""
    return frame["run"].isna()


def best(frame, metric):
    """Mark the best measured values of a metric in each direction, ties at the printed precision included."""
    values = frame[metric].round(1)
    top = values.groupby(frame["direction"]).transform("max")
    several = values.groupby(frame["direction"]).transform("count") > 1
    return several & (values == top)


def display_frame(frame, bold):
    """Return the table as people read it, every cell a string `measured ± deviation (published, difference)`.

    `bold` wraps a best value in the markup of the page.
    """
    shown = pd.DataFrame(
        {
            "Row": [
                f"{line.row} (cited)" if cited else line.row
                for line, cited in zip(frame.itertuples(), is_cited(frame), strict=True)
            ]
        }
    )
    if frame["direction"].nunique() > 1:
        shown["Direction"] = frame["direction"]
    run, cited = is_run(frame), is_cited(frame)
    for metric in METRICS:
        marks = best(frame, metric)
        shown[metric] = [
            _cell(line, metric, run[i], cited[i], bold if marks[i] else str) for i, line in frame.iterrows()
        ]
    return shown


def _cell(line, metric, run, cited, mark):
    value, deviation, printed = line[metric], line[f"{metric}_std"], line[f"{metric}_published"]
    if run:
        text = mark(number(value)) + ("" if pd.isna(deviation) else f" ± {number(deviation)}")
    else:
        text = "not run" if metric == METRICS[0] and not cited else "–"
    if pd.isna(printed):
        return text
    gap = "" if pd.isna(value) else f", {difference(value - printed)}"
    return f"{text} ({number(printed)}{gap})"


def legend(frame):
    """How to read a cell, as plain text."""
    text = "Each cell: measured"
    if frame["mAP_std"].notna().any():
        text += " mean ± standard deviation over the seeds"
    if frame["mAP_published"].notna().any():
        text += " (published, difference)"
    if best(frame, METRICS[0]).any():
        text += "; bold: the best measured value of a column"
    return f"{text}."


def not_run(frame):
    """The runs without a result, each once, in the order of the table."""
    return list(dict.fromkeys(frame["run"][~is_run(frame) & ~is_cited(frame)]))


def markdown(table_id, frame, declared, dataset):
    """Render the table for a page: caption, cells, and the command that makes each run that is missing."""
    shown = display_frame(frame, "**{}**".format)
    parts = [
        caption(table_id, frame, declared, dataset),
        shown.to_markdown(index=False, disable_numparse=True),
        legend(frame),
    ]
    parts += [
        f"Not run on {dataset}: `{run}`; make it with `{measured.evaluate_command(run)}`."
        for run in not_run(frame)
    ]
    return "\n\n".join(parts) + "\n"


def html(frame):
    """Render the cells as an HTML table."""
    return display_frame(
        frame.assign(row=frame["row"].map(escape_html)), "<strong>{}</strong>".format
    ).to_html(index=False, escape=False, border=0)


def escape_latex(text):
    """Make plain text safe inside LaTeX."""
    return text.translate(LATEX_ESCAPES)


def latex(table_id, frame, declared, dataset):
    """Render the table as a LaTeX float for `\\input`; needs `\\usepackage{booktabs}` alone."""
    several = frame["direction"].nunique() > 1
    run, cited = is_run(frame), is_cited(frame)
    rows = {}
    for i, line in frame.iterrows():
        label = escape_latex(line["row"]) + (f" ({line['direction']})" if several else "")
        marks = {metric: best(frame, metric)[i] for metric in METRICS}
        if run[i]:
            rows[label, "measured"] = [_latex_measured(line, metric, marks[metric]) for metric in METRICS]
        elif not cited[i]:
            rows[label, "measured"] = ["not run"] + ["--"] * (len(METRICS) - 1)
        if pd.notna(line["mAP_published"]):
            rows[label, "cited" if cited[i] else "published"] = [
                number(line[f"{metric}_published"]).replace("–", "--") for metric in METRICS
            ]
            if run[i]:
                gaps = [line[metric] - line[f"{metric}_published"] for metric in METRICS]
                rows[label, "difference"] = ["--" if pd.isna(gap) else f"${gap:+.1f}$" for gap in gaps]
    body = pd.DataFrame.from_dict(rows, orient="index", columns=[LATEX_METRICS[metric] for metric in METRICS])
    body.index = pd.MultiIndex.from_tuples(rows)
    text = body.style.to_latex(
        hrules=True,
        clines="skip-last;data",
        multirow_align="naive",
        column_format="ll" + "r" * len(METRICS),
        position="tb",
        position_float="centering",
        label=f"tab:{table_id}",
        caption=escape_latex(caption(table_id, frame, declared, dataset)),
    )
    # Space instead of rules between the rows, as booktabs recommends.
    rule = rf"\cline{{1-{2 + len(METRICS)}}}"
    return text.replace(f"{rule}\n\\bottomrule", r"\bottomrule").replace(rule, r"\addlinespace")


def _latex_measured(line, metric, mark):
    text = number(line[metric]).replace("–", "--")
    text = rf"\textbf{{{text}}}" if mark else text
    deviation = line[f"{metric}_std"]
    return text if pd.isna(deviation) else rf"{text} $\pm$ {number(deviation)}"
