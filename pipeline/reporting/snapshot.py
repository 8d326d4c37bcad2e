"""The report that the repository shows: reports/snapshot/, tracked by git, and Table 2 in README.md.

Everybody's own results live in reports/<dataset>/, which git ignores. Only `commands.snapshot` copies from there.
"""

import os
import re
import shutil

from pipeline.artifacts import files, paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import provenance, report, table_files, tables

DATASET = "generated"  # the embedded default
README_TABLE = "table2"
BLOCK = re.compile(r"(<!-- snapshot: written by `make snapshot` -->\n).*?(<!-- end of snapshot -->)", re.DOTALL)


def take():
    """Copy the finished report of the embedded default to reports/snapshot/ and its Table 2 into README.md.

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
    files.write_text(readme, BLOCK.sub(lambda block: f"{block[1]}{_readme_table(content)}{block[2]}", text))


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


def _readme_table(content):
    (section,) = (section for section in content["tables"] if section["name"] == README_TABLE)
    shown = tables.display_frame(section["frame"], "**{}**".format).to_markdown(index=False, disable_numparse=True)
    made = content["snapshot"]
    where = f"Made of revision {made['revision'][:12]} on the processor {made['processor']}."
    return f"\n{shown}\n\n{' '.join([section['legend'], *tables.notes(section['frame']), where])}\n\n"
