"""python -m stages.download: fetch or draw the chosen dataset, verify it, write annotations and manifest."""

from pipeline import experiments, paths
from pipeline.cli import command
from pipeline.datasets.prepare import prepare


@command
def main():
    name = experiments.chosen_dataset()
    prepare(name, experiments.load().dataset(name), images_root=paths.images_root(name), out_dir=paths.data(name))


if __name__ == "__main__":
    main()
