"""python -m stages.priors RUN: write what the contrastive loss of a trained run sees on a few validation objects."""

import argparse

from pipeline import runs
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.declaration.categories import base_and_novel
from pipeline.methods.contrastmask import look_inside


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
    look_inside.write(job, base, novel)


if __name__ == "__main__":
    main()
