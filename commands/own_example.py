"""python -m commands.own_example FOLDER [--maps]: draw photographs with annotations, to try commands.own on.

Products with boxes for all and masks for some, or scenes with label maps and labels of whole images.
"""

import argparse
import shlex

from pipeline.cli import command
from pipeline.datasets.generated import products
from pipeline.datasets.label_maps import example


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a new one")
    parser.add_argument("--maps", action="store_true", help="scenes with label maps")
    parser.add_argument("--count", type=int, default=300, help="of images (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    name, options, room = "products", ("images", "annotations"), products
    if args.maps:
        name, options, room = "places", ("images", "maps", "classes", "labels"), example
    drawn = room.draw(args.folder, args.count, seed=args.seed)
    line = " ".join(f"--{option} {shlex.quote(str(path))}" for option, path in zip(options, drawn, strict=True))
    print(f"{args.count} images in {drawn[0]}; then type:\n  python -m commands.own {name} {line}")


if __name__ == "__main__":
    main()
