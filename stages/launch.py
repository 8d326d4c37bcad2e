"""python -m stages.launch [--jobs N]: make all runs of the chosen tables, N at a time, then the report."""

import argparse

from pipeline.cli import command
from pipeline.launch import launch


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default 1)")
    launch(parser.parse_args().jobs)


if __name__ == "__main__":
    main()
