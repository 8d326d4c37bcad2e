"""A table as LaTeX."""

import re

import pandas as pd

from pipeline.reporting import deviations, tables

ESCAPES = str.maketrans(
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
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "≈": r"$\approx$",
        "λ": r"$\lambda$",
        "σ": r"$\sigma$",
        "δ": r"$\delta$",
        "τ": r"$\tau$",
    }
)


def escape_latex(text):
    """Make plain text safe inside LaTeX, whatever it holds: every special character and the symbols used here."""
    return "".join(char for char in str(text) if char.isprintable() or char in "\n\r\t").translate(ESCAPES)


def latex(table_id, frame, declared, dataset):
    """Render the table as a LaTeX float for `\\input`; needs `\\usepackage{booktabs}` alone.

    Directions stand side by side as in the paper's Table 1; every row has a line for what was measured, one for what
    was published and, on the data of the paper, one for the difference.
    """
    metrics, first = tables.shown_metrics(frame), tables.main(frame)
    directions = [escape_latex(direction) for direction in dict.fromkeys(frame["direction"])]
    labels = [column for column in tables.telling(frame) if column != "direction"]
    marks = {metric: tables.best(frame, metric.key) for metric in metrics}
    undefined, cited, run = tables.is_undefined(frame), tables.is_cited(frame), tables.is_run(frame)
    lines = {}
    for i, line in frame.iterrows():
        # rows of one name differ in backbone or schedule
        key = (
            *(escape_latex(line[column]) if pd.notna(line[column]) else "--" for column in labels),
            escape_latex(line["row"]),
        )
        cells = {}
        if undefined[i]:
            cells["measured"] = ["undefined"] + ["--"] * (len(metrics) - 1)
        elif run[i]:
            cells["measured"] = [_measured(line, metric.key, marks[metric][i]) for metric in metrics]
        elif not cited[i]:
            cells["measured"] = [escape_latex(tables.short(line["state"]))] + ["--"] * (len(metrics) - 1)
        if pd.notna(line[f"{first}_published"]):
            cells["cited" if cited[i] else "published"] = [
                tables.number(line[f"{metric.key}_published"]).replace("–", "--") for metric in metrics
            ]
            if run[i] and pd.notna(line["agrees"]):
                gaps = [line[metric.key] - line[f"{metric.key}_published"] for metric in metrics]
                cells["difference"] = ["--" if pd.isna(gap) else f"${gap:+.1f}$" for gap in gaps]
        for kind, values in cells.items():
            for metric, value in zip(metrics, values, strict=True):
                lines.setdefault((*key, kind), {})[escape_latex(line["direction"]), metric.latex] = value
    columns = pd.MultiIndex.from_product([directions, [metric.latex for metric in metrics]])
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
        caption=escape_latex(
            " ".join([tables.caption(table_id, frame, declared, dataset), tables.told(frame)]).strip()
        ),
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
    text = text.replace("\\addlinespace\n\\bottomrule", r"\bottomrule")
    return text.replace(r"\end{table*}", _below(frame) + r"\end{table*}")


def _below(frame):
    """What stands below the rows, in small print: what they were trained with otherwise than the published ones."""
    if not (found := deviations.lines(frame)):
        return ""
    sentences = [f"{tables.DIFFERENCES.removesuffix(':')}.", *(f"{line}." for line in found)]
    return r"\par\vspace{2pt}\raggedright\scriptsize" + "\n" + "\n".join(map(escape_latex, sentences)) + "\n"


def _measured(line, metric, mark):
    text = tables.number(line[metric]).replace("–", "--")
    text = rf"\textbf{{{text}}}" if mark else text
    deviation = line[f"{metric}_std"]
    text = text if pd.isna(deviation) else rf"{text} $\pm$ {tables.number(deviation)}"
    return text + escape_latex(tables.sign(line, metric))
