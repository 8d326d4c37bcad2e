"""python -m stages.report: write README.md and index.html of reports/<dataset>; keep them in MLflow as well."""

import argparse

from pipeline.artifacts import dvc_lock, paths
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.reporting.report import build_report
from pipeline.tracking import page, report


@command
def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    dvc_lock.keep_private()
    dataset = experiments.chosen_dataset()
    links = page.run_links(dataset, *experiments.selected()["elsewhere"]["datasets"])
    scores = build_report(links)
    if links is not None:  # else the store is out of reach, which has been said
        report.log_report(dataset, paths.reports(dataset), experiments.selected(), scores)


if __name__ == "__main__":
    main()
