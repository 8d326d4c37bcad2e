"""python -m stages.report: write reports/README.md and index.html; keep tables and figures in MLflow."""

import argparse

from pipeline import experiments, paths, tracking
from pipeline.cli import command
from pipeline.reporting.report import build_report


@command
def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    build_report()
    tracking.log_report(experiments.chosen_dataset(), paths.ROOT / "reports")


if __name__ == "__main__":
    main()
