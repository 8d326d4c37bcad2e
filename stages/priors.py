"""python -m stages.priors RUN: write what the contrastive loss of a trained run sees on a few validation objects."""

import argparse

from pipeline import experiments, priors, runs
from pipeline.cli import command
from pipeline.datasets.categories import base_and_novel


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    name, dataset = parser.parse_args().run, experiments.chosen_dataset()
    declared = experiments.load()
    base, novel = base_and_novel(declared.directions[declared.run(name).direction])
    runs.ensure_images(dataset)
    job = runs.resolve_seeds(name, dataset)[0]
    runs.require_trained(job)
    priors.write(job, base, novel)


if __name__ == "__main__":
    main()
