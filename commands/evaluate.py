"""python -m commands.evaluate --checkpoint FILE [--run RUN | --dataset NAME]: score a checkpoint of any origin.

Runs are evaluated by `dvc repro evaluate@RUN`.
"""

import argparse
from pathlib import Path

from pipeline.artifacts import files
from pipeline.cli import command
from pipeline.trained import evaluating


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="of this project, released code or MMDetection")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--run", help="a declared run, whose data set and direction are taken")
    place.add_argument("--dataset", help="a declared one; default: that of params.yaml")
    parser.add_argument("--direction", help="whose base and novel classes are scored apart; default: that of --run")
    parser.add_argument("--config", type=Path, help="MMDetection's configuration, if nothing beside the file tells it")
    parser.add_argument("--out", type=Path, help="JSON file to write the scores to, those of each class too")
    args = parser.parse_args()
    result = evaluating.evaluate(args.checkpoint, args.run, args.dataset, args.direction, args.config)
    print(f"{args.checkpoint} ({result['origin']}) on the validation images of {result['dataset']}, percent")
    print(evaluating.table(result))
    if args.out:
        files.write_json(args.out, result)


if __name__ == "__main__":
    main()
