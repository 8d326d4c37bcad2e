"""python -m commands.scores RUN: the scores of an evaluated run by base and novel and by class."""

import argparse

from pipeline.cli import command
from pipeline.reporting import class_scores


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a name under `runs:` in pipeline/experiments")
    print(class_scores.text(parser.parse_args().run))


if __name__ == "__main__":
    main()
