"""python -m stages.launch: make all runs of the chosen tables, several at a time, then the report."""

import argparse

from pipeline.cli import command
from pipeline.launch import launch


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, help="trainings at a time (default: one for each GPU; two without one)")
    launch(parser.parse_args().jobs)


if __name__ == "__main__":
    main()
