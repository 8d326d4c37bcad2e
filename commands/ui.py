"""python -m commands.ui: show the MLflow store on a page of this machine."""

import argparse

from pipeline.cli import command
from pipeline.tracking import page


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    args = parser.parse_args()
    page.serve(args.host, args.port)


if __name__ == "__main__":
    main()
