"""python -m commands.start_from FILE RUN: what a run would take of a trained detector, and how to declare it."""

import argparse

from pipeline.cli import command
from pipeline.trained import loading, naming, reading, starting


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a checkpoint of this project, released code or MMDetection")
    parser.add_argument("run", help="of pipeline/experiments")
    args = parser.parse_args()
    training = loading.training_of(args.run)
    trained = reading.read(args.file)
    naming.require_startable(trained, training.dataset)
    fit = starting.against(trained, training, training.dataset)
    starting.require_backbone(trained, fit, training.backbone)
    print(f"{trained.path} ({trained.origin}): what {args.run} takes of it on {training.dataset}\n\n{fit.table()}\n")
    print(f"To start from it, give the entry of {training.dataset} in pipeline/experiments the line\n")
    print(f"    initial_weights: {naming.declaration(trained)}")


if __name__ == "__main__":
    main()
