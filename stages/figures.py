"""python -m stages.figures <figure>: write reports/<dataset>/figures/<figure>.{png,pdf,svg} from what its runs left."""

import argparse

from pipeline.cli import command
from pipeline.reporting.figures import build_figure


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", help="a name under `figures:` in pipeline/experiments")
    build_figure(parser.parse_args().figure)


if __name__ == "__main__":
    main()
