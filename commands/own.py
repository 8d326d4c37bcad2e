"""python -m commands.own NAME --images FOLDER (--annotations FILE | --maps FOLDER --classes FILE): declare your data.

Boxes for all, masks for some (docs/own_data.md), or label maps, some classes by image-level labels (docs/own_maps.md).
"""

import argparse

from pipeline import own, own_maps
from pipeline.cli import command
from pipeline.reporting import own_maps_sheet, own_sheet


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the data set, such as fruit")
    parser.add_argument("--images", help="folder of all images")
    parser.add_argument("--annotations", help="COCO file as your tool exported it")
    parser.add_argument("--val-annotations", help="COCO file of the validation images; default: some are set apart")
    parser.add_argument("--val-fraction", type=float, help="share of the images to set apart (default 0.2)")
    parser.add_argument("--seed", type=int, help="of which are set apart (default 0)")
    parser.add_argument("--base", nargs="+", default=(), help="classes with masks or pixels (default: that have some)")
    parser.add_argument("--novel", nargs="+", default=(), help="classes whose masks or pixels are hidden from training")
    parser.add_argument("--keep-rectangles", action="store_true", help="a polygon that is its box is a mask")
    parser.add_argument("--profile", help="how it is trained; default: by what is annotated and whether there is a GPU")
    parser.add_argument("--force", action="store_true", help="declare it anew, as before but for what is given")
    own_maps.add_options(parser)
    args = parser.parse_args()
    if own_maps.meant(args):
        room, sheet, given = own_maps, own_maps_sheet, own_maps.options_of(args)
    else:
        parting = args.val_annotations, args.val_fraction, args.seed, args.keep_rectangles
        room, sheet, given = own, own_sheet, (own.options_of(args.name, args.images, args.annotations, *parting),)
    found = room.declare(args.name, *given, args.base, args.novel, args.profile, args.force)
    look = f"Look at it before you train: {sheet.write(args.name, found)}\nThen type:"
    print(room.told(found), "\n  ".join([look, *own.next_commands(found)]), sep="\n")


if __name__ == "__main__":
    main()
