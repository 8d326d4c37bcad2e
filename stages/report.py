"""python -m stages.report: write reports/README.md and reports/index.html, tables and figures together."""

import argparse

from pipeline.cli import command
from pipeline.reporting.report import build_report


@command
def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    build_report()


if __name__ == "__main__":
    main()
