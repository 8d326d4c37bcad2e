"""python -m commands.predict RUN_OR_CHECKPOINT IMAGES... --out DIR: find objects in pictures, and look at them."""

import argparse
from pathlib import Path

from pipeline.cli import command
from pipeline.hardware import test_batch
from pipeline.inference import models, options, outputs, pictures, predict


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT", help="a declared run that is trained, or a file")
    parser.add_argument("images", nargs="+", help="files, folders or globs in quotes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--score", type=options.fraction, default=0.5, help="least score, 0 to 1; default: %(default)s")
    parser.add_argument("--classes", nargs="+", help="show these alone")
    parser.add_argument("--batch", type=options.count, help="images at a time; default: CONTRASTMASK_TEST_BATCH or 1")
    parser.add_argument("--seed", type=int, help="of the run; default: its first")
    parser.add_argument("--dataset", help="that the run was trained on; default: the chosen one")
    parser.add_argument("--form", choices=outputs.FORMS, default=outputs.FORMS[0], help="of masks in annotations.json")
    args = parser.parse_args()
    files = pictures.find(args.images, apart_from=args.out)
    detector = models.load(args.model, args.seed, args.dataset)
    classes = detector.chosen(args.classes)
    found, skipped = pictures.measured(files)
    with predict.predicted(detector, found, args.out, args.score, args.batch or test_batch()) as lines:
        print(outputs.write(lines, found, skipped, detector, args.out, args.score, classes, args.form))


if __name__ == "__main__":
    main()
