"""A training of a few steps on a few drawn images: for tests and for benchmarks of damage and kills."""

from dataclasses import replace

from pipeline.artifacts import checkpoint, paths
from pipeline.datasets.prepare import prepare
from pipeline.declaration import config, experiments, subsets
from pipeline.tasks.instances.split import split

DATASET = "generated"
RUN = "contrastmask_r50_1x_nonvoc2voc"


def draw_inputs():
    """Make a few drawn images, their split and random initial weights, where `paths` lead to."""
    entry = experiments.load().dataset(DATASET) | {"train_images": 12, "val_images": 2}
    prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
    split(
        subsets.train(DATASET).annotations,
        experiments.load().label_set(DATASET),
        "nonvoc2voc",
        paths.split(DATASET, "nonvoc2voc"),
    )
    checkpoint.write(paths.initial_weights(DATASET, "r50"), {}, {})


def job(seed=0, interval=2, iterations=6, data=None, **optimisation):
    """A training of a few steps that saves its state every `interval` ones."""
    full = config.resolve(RUN, DATASET, seed)
    return replace(
        full,
        data=full.data | {"batch_size": 2, "images_per_gpu": 2} | (data or {}),
        schedule={"iterations": iterations, "milestones": []},
        optimisation=full.optimisation | {"log_interval": 1, "checkpoint_interval": interval} | optimisation,
    )
