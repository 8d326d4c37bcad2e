"""What the repository shows: a finished report in reports/snapshot/, tracked by git, and its numbers in README.md.

Everybody's own results live in reports/<dataset>/, which git ignores. Only `commands.snapshot` copies from there.
"""

import os
import re
import shutil
from html import escape

from pipeline.artifacts import files, paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import provenance, report, study, study_page, table_files, tables

DATASET = "generated"  # the embedded default
README_TABLE, README_FIGURE = "table2", "same_objects"
PICTURE_WIDTH = 520  # pixels on a wide screen; a phone makes it as wide as itself
BLOCK = re.compile(r"(<!-- snapshot: written by `make snapshot` -->\n).*?(<!-- end of snapshot -->)", re.DOTALL)


def take():
    """Copy the finished report of the embedded default to reports/snapshot/ and write the block of README.md.

    Raises:
        ExperimentError: another dataset is chosen, the report is not finished, or the code differs from the commit that
            the snapshot is to name. Then nothing is changed.
    """
    dataset = experiments.chosen_dataset()
    if dataset != DATASET:
        raise ExperimentError(f"params.yaml: dataset: {dataset}; the snapshot shows `dataset: {DATASET}`")
    content, _ = report.describe(dataset)
    folder = paths.reports(dataset)
    _check_finished(content, folder)
    commit = provenance.commit()
    if commit["hash"] == "unknown":
        raise ExperimentError("no git repository: the snapshot names the commit it was made of; make it in a clone")
    if commit["changed"]:
        raise ExperimentError(
            f"{', '.join(commit['changed'])}: not as committed; the snapshot names the commit it was made of: commit "
            "the change or take it back, then run `make snapshot`"
        )
    readme = paths.ROOT / "README.md"
    if not BLOCK.search(text := readme.read_text(encoding="utf-8")):
        raise ExperimentError("README.md: the comments around the snapshot's table are gone; `git checkout README.md`")
    content["snapshot"] = {"revision": commit["hash"], "processor": provenance.processor()}

    new, old = (paths.SNAPSHOT.with_name(f".snapshot.{os.getpid()}.{name}") for name in ("new", "old"))
    try:
        for kind, pattern in (("tables", "{}.*"), ("figures", "{}.png")):
            (new / kind).mkdir(parents=True)
            for section in content[kind]:
                for path in folder.glob(f"{kind}/{pattern.format(section['name'])}"):
                    shutil.copy(path, new / kind)
        files.write_text(new / "README.md", report.render("README.md", content))
        if paths.SNAPSHOT.exists():
            os.rename(paths.SNAPSHOT, old)
        os.rename(new, paths.SNAPSHOT)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    shown = _readme_block(content, experiments.load(), dataset)
    files.write_text(readme, BLOCK.sub(lambda block: f"{block[1]}\n{shown}\n\n{block[2]}", text))


def _check_finished(content, folder):
    problems = content["problems"] + [f"{group['state']}: {', '.join(group['runs'])}" for group in content["waiting"]]
    problems += [section["problem"] for section in content["tables"] if "problem" in section]
    if undrawn := [section["name"] for section in content["figures"] if "picture" not in section]:
        problems.append(f"not drawn: {', '.join(undrawn)}")
    for section in content["tables"]:
        if not all(
            (folder / "tables" / f"{section['name']}.{extension}").exists() for extension in table_files.EXTENSIONS
        ):
            problems.append(f"not built: {section['name']}")
    if README_TABLE not in {section["name"] for section in content["tables"]}:
        problems.append(f"{README_TABLE} is not chosen")
    if problems:
        raise ExperimentError(f"the report is not finished ({'; '.join(problems)}); run `make reproduce TABLES=all`")


def _readme_block(content, declared, dataset):
    """What README.md shows: a picture of masks, and the rows of the seed study with their spread, else Table 2 of one
    training a row.
    """
    return "\n\n".join([*_picture(content), _rows(content, declared, dataset)])


def _picture(content):
    """The picture and, folded away, by which rule it shows what it shows; nothing where it is not made."""
    for section in content["figures"]:
        if section["name"] == README_FIGURE and "picture" in section:
            source = f"reports/snapshot/figures/{README_FIGURE}.png"
            yield f'<img src="{source}" width="{PICTURE_WIDTH}" alt="{escape(section["title"])}, generated images">'
            yield f"<details><summary>Which objects, by which rule</summary>\n\n{section['caption']}\n\n</details>"


def _rows(content, declared, dataset):
    (section,) = (section for section in content["tables"] if section["name"] == README_TABLE)
    made, frame = content["snapshot"], section["frame"]
    where = f"revision {made['revision'][:12]} on the processor {made['processor']}"
    found = study.of(dataset, declared)
    if not found:
        shown = tables.display_frame(frame, "**{}**".format).to_markdown(index=False, disable_numparse=True)
        return f"{shown}\n\n{' '.join([section['legend'], *tables.notes(frame), f'Made of {where}.'])}"
    metric = tables.task_of(frame).main_metric
    values = [
        f"{line['row']} {tables.number(line[metric.key])}{tables.sign(line, metric.key)}"
        for _, line in frame.iterrows()
    ]
    single = f"What `make reproduce` prints, made of {where}, {metric.label}: {', '.join(values)}."
    return "\n\n".join([study_page.first_screen(found, declared, dataset), f"{single} {tables.told(frame)}".strip()])
