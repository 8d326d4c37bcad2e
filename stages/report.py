"""python -m stages.report: write README.md and index.html of reports/<dataset>; keep them in MLflow as well."""

import argparse

from pipeline import experiments, lockfile, paths, tracking
from pipeline.cli import command
from pipeline.reporting.report import build_report


@command
def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    lockfile.keep_private()
    dataset = experiments.chosen_dataset()
    links = tracking.run_links(dataset)
    scores = build_report(links)
    if links is not None:  # else the store is out of reach, which has been said
        tracking.log_report(dataset, paths.reports(dataset), experiments.selected(), scores)


if __name__ == "__main__":
    main()
