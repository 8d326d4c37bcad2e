"""python -m commands.accept [OLD]: keep the trainings of a commit whose code trains the same bit for bit."""

import argparse
import logging

from pipeline.acceptance import accept
from pipeline.cli import command

logger = logging.getLogger("pipeline.acceptance")


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", nargs="?", default="HEAD", help="commit that trained what is there (default: HEAD)")
    parser.add_argument("--runs", nargs="+", default=(), help="compare these too (all: every run), whatever the method")
    parser.add_argument(
        "--adopt", action="store_true", help="OLD is before recipes: let its trainings count, run by run"
    )
    args = parser.parse_args()
    if args.adopt:
        adopted = accept.adopt(args.old)
        logger.info("%d trainings adopted: %s", len(adopted), ", ".join(adopted) or "none")
        return
    added = accept.accept(args.old, args.runs)
    logger.info("accepted: %d codes, %d recipes (pipeline/accepted.yaml)", len(added["code"]), len(added["recipes"]))


if __name__ == "__main__":
    main()
