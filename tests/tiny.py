"""A training of a few steps on a few drawn images: for tests and for benchmarks of damage and kills."""

from dataclasses import replace

from pipeline import methods
from pipeline.artifacts import checkpoint, paths
from pipeline.datasets.prepare import prepare
from pipeline.declaration import config, experiments, subsets

DATASET = "generated"
RUN = "contrastmask_r50_1x_nonvoc2voc"
DRAWN = {"objects": DATASET, "maps": "scenes"}  # by what a task reads


def dataset_of(name=RUN):
    """The drawn data set of a run."""
    return DRAWN[methods.task_of(experiments.load().run(name).method).reads]


def draw_inputs(name=RUN, val_images=2):
    """Make a few drawn images, the split of a run and random initial weights, where `paths` lead to."""
    declared, dataset = experiments.load(), dataset_of(name)
    run, labels = declared.run(name), declared.label_set(dataset)
    entry = declared.dataset(dataset) | {"train_images": 12, "val_images": val_images}
    prepare(dataset, entry, images_root=paths.images_root(dataset), out_dir=paths.data(dataset))
    hide = methods.task_of(run.method).hide
    hide(subsets.train(dataset).annotations, labels, run.direction, paths.split(dataset, run.split))
    checkpoint.write(paths.initial_weights(dataset, run.weights), {}, {})


def job(seed=0, interval=2, iterations=6, data=None, name=RUN, **optimisation):
    """A training of a few steps that saves its state every `interval` ones."""
    full = config.resolve(name, dataset_of(name), seed)
    return replace(
        full,
        data=full.data | {"batch_size": 2, "images_per_gpu": 2} | (data or {}),
        schedule={"iterations": iterations, "milestones": []},
        optimisation=full.optimisation | {"log_interval": 1, "checkpoint_interval": interval} | optimisation,
    )
