"""python -m commands.predict RUN_OR_CHECKPOINT IMAGES... --out DIR: find objects, or label pixels, and look at them."""

import argparse
from pathlib import Path

from pipeline.cli import command
from pipeline.hardware import test_batch
from pipeline.inference import map_outputs, models, options, outputs, pictures, predict


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT", help="a declared run that is trained, or a file")
    parser.add_argument("images", nargs="+", help="files, folders or globs in quotes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--score", type=options.fraction, help="least score of objects, 0 to 1; default: 0.5")
    parser.add_argument("--classes", nargs="+", help="show these alone")
    parser.add_argument("--batch", type=options.count, help="images at a time; default: CONTRASTMASK_TEST_BATCH or 1")
    parser.add_argument("--seed", type=int, help="of the run; default: its first")
    parser.add_argument("--dataset", help="that the run was trained on; default: the chosen one")
    parser.add_argument("--form", choices=outputs.FORMS, help="of masks in annotations.json; default: polygons")
    args = parser.parse_args()
    files = pictures.find(args.images, apart_from=args.out)
    detector = models.load(args.model, args.seed, args.dataset, maps=True)
    score, form = options.of_objects(detector, args.score, args.form)
    classes = detector.chosen(args.classes)
    found, skipped = pictures.measured(files)
    with predict.predicted(detector, found, args.out, score, args.batch or test_batch()) as lines:
        if detector.maps:
            print(map_outputs.write(lines, found, skipped, detector, args.out, classes))
        else:
            print(outputs.write(lines, found, skipped, detector, args.out, score, classes, form))


if __name__ == "__main__":
    main()
