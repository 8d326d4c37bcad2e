"""python -m commands.own NAME --images FOLDER --annotations FILE: declare your own data as a data set with runs.

Boxes for all objects, masks for some, in COCO's format. Images stay where they are. docs/own_data.md goes through it.
"""

import argparse

from pipeline import own
from pipeline.cli import command
from pipeline.reporting import own_sheet


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the data set, such as fruit")
    parser.add_argument("--images", help="folder of all images")
    parser.add_argument("--annotations", help="COCO file as your tool exported it")
    parser.add_argument("--val-annotations", help="COCO file of the validation images; default: some are set apart")
    parser.add_argument("--val-fraction", type=float, help="share of the images that are set apart (default 0.2)")
    parser.add_argument("--seed", type=int, help="of which images are set apart (default 0)")
    parser.add_argument("--base", nargs="+", default=(), help="classes with masks (default: that have some)")
    parser.add_argument("--novel", nargs="+", default=(), help="classes trained with boxes alone, masks or not")
    parser.add_argument("--keep-rectangles", action="store_true", help="a polygon that is its box is a mask")
    parser.add_argument("--profile", help="how it is trained; default: own with a GPU, embedded without")
    parser.add_argument("--force", action="store_true", help="declare it anew, as before but for what is given")
    args = parser.parse_args()
    parting = args.val_annotations, args.val_fraction, args.seed, args.keep_rectangles
    options = own.options_of(args.name, args.images, args.annotations, *parting)
    found = own.declare(args.name, options, args.base, args.novel, args.profile, args.force)
    print(own.told(found), f"Boxes and masks to look at: {own_sheet.write(args.name, found)}", sep="\n")
    print("Then type:", *own.next_commands(found), sep="\n  ")


if __name__ == "__main__":
    main()
