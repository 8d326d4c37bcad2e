"""python -m stages.look_inside RUN: write what figures show of a trained run's inside on a few validation objects."""

import argparse

from pipeline import methods, runs
from pipeline.cli import command
from pipeline.declaration import experiments


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    name = parser.parse_args().run
    dataset = experiments.dataset_of(name)
    declared = experiments.load()
    run = declared.run(name)
    inside = methods.required(run.method, "look_inside")
    base, novel = declared.label_set(dataset).base_and_novel(run.direction)
    runs.ensure_images(dataset)
    job = runs.resolve_seeds(name, dataset)[0]
    runs.require_trained(job)
    inside.write(job, base, novel)


if __name__ == "__main__":
    main()
