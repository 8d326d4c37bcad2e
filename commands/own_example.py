"""python -m commands.own_example FOLDER: draw photographs of products with masks for some, to try commands.own on."""

import argparse
import shlex

from pipeline.cli import command
from pipeline.datasets.generated import products


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a new one")
    parser.add_argument("--count", type=int, default=300, help="of images (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images, annotations = map(str, products.draw(args.folder, args.count, seed=args.seed))
    print(f"{args.count} images in {images}, annotations in {annotations}; then type:")
    line = f"--images {shlex.quote(images)} --annotations {shlex.quote(annotations)}"
    print(f"  python -m commands.own products {line}")


if __name__ == "__main__":
    main()
