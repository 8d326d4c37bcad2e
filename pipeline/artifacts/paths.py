"""Every artifact path and every root that the machine decides.

Two roots exist. `ROOT` is this working copy; what DVC tracks lies below it. `home()` is the working copy the user
cloned: the same folder, except inside `dvc exp run --temp` or `--queue`, which execute in a throw-away copy of the
git files. What must outlive or be shared by such copies (images, resumable training state, the MLflow store) lies
below `home()`.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

EXPERIMENTS = ROOT / "pipeline" / "experiments"  # the declaration, merged from its files
PUBLISHED = EXPERIMENTS / "published"  # the numbers that papers print
SELECTION = ROOT / "pipeline" / "selection.yaml"
PARAMS = ROOT / "params.yaml"
PAPER_KNOBS = ROOT / "pipeline" / "methods" / "contrastmask" / "knobs.yaml"
SNAPSHOT = ROOT / "reports" / "snapshot"  # tracked by git: a finished report that `commands.snapshot` copied


def own(dataset):
    """Where `commands.own` declares a user's data set, with its runs; its label set is beside the others."""
    return EXPERIMENTS / f"own_{dataset}.yaml"


def home():
    """The working copy the user cloned; CONTRASTMASK_HOME overrides it, for data on another disk.

    DVC sets DVC_ROOT for every command it runs; inside a throw-away copy it names the repository the copy was made of.
    """
    override = os.environ.get("CONTRASTMASK_HOME") or os.environ.get("DVC_ROOT")
    return Path(override).expanduser().resolve() if override else ROOT


# Under ROOT: stage outputs, tracked by DVC.


def data(dataset):
    return ROOT / "data" / dataset


def annotations(dataset, subset):
    """`subset` is a name of the dataset's entry, such as `train2017`."""
    return data(dataset) / "annotations" / f"instances_{subset}.json"


def label_maps(dataset, subset):
    """Index of the label maps of a subset; their pack lies beside it."""
    return data(dataset) / "annotations" / f"maps_{subset}.json"


def manifest(dataset):
    return data(dataset) / "manifest.json"


def split(dataset, direction):
    return data(dataset) / "splits" / direction


def split_train(dataset, direction):
    return split(dataset, direction) / "train.json"


def learnt_priors(dataset, key):
    """What a method learns from the base masks of a split before its trainings, see `methods.priors_key`."""
    return data(dataset) / "priors" / key


def labels(dataset, run_name):
    """What a trained run says of the training images, a file for each seed: what other runs train on."""
    return data(dataset) / "labels" / run_name


def label_index(dataset, run_name, seed):
    return labels(dataset, run_name) / f"seed{seed}.json"


def initial_weights(dataset, key):
    return ROOT / "runs" / dataset / "init" / f"{key}.pth"


def priors():
    """Files of masks and points that the knob `prior_file` names; tracked by git or not, as their owner likes."""
    return ROOT / "priors"


def accepted():
    """Which recipes train the same as older ones; tracked by git."""
    return ROOT / "pipeline" / "accepted.yaml"


def recipes(dataset):
    return ROOT / "recipes" / dataset


def recipe(dataset, name, kind):
    """What DVC compares: of a run's `training`, `evaluation` or `labelling`, or of a backbone's weights (`init`)."""
    return recipes(dataset) / ("" if kind == "training" else kind) / f"{name}.json"


def recipe_content(dataset, name, kind):
    """The same in words."""
    return recipes(dataset) / "content" / kind / f"{name}.json"


def looks(dataset):
    """What rooms say of methods and tasks to those who read: what tables, figures and report depend on."""
    return recipes(dataset) / "looks.json"


def run(dataset, run_name):
    return ROOT / "runs" / dataset / run_name


def checkpoint(dataset, run_name, seed):
    return run(dataset, run_name) / f"seed{seed}" / "checkpoint.pth"


def config(dataset, run_name, seed):
    return run(dataset, run_name) / f"seed{seed}" / "config.py"


def logs(dataset, run_name):
    return ROOT / "logs" / dataset / run_name


def log(dataset, run_name, seed):
    return logs(dataset, run_name) / f"seed{seed}.jsonl"


def run_predictions(dataset, run_name):
    return ROOT / "predictions" / dataset / run_name


def predictions(dataset, run_name, seed):
    return run_predictions(dataset, run_name) / f"seed{seed}.json"


def look_inside(dataset, run_name):
    """What figures show of a trained model's inside, such as CAM, partition and keys of validation objects."""
    return ROOT / "predictions" / dataset / "look_inside" / f"{run_name}.npz"


def results(dataset, run_name):
    return ROOT / "results" / dataset / f"{run_name}.json"


def metrics(run_name):
    """Headline numbers of a free run: what `dvc metrics show` and `dvc exp show` print."""
    return ROOT / "metrics" / f"{run_name}.json"


def reports(dataset):
    """Tables, figures and page of one dataset. Git ignores them; SNAPSHOT holds what the repository shows."""
    return ROOT / "reports" / dataset


def table(dataset, name, extension):
    return reports(dataset) / "tables" / f"{name}.{extension}"


def figure(dataset, name, extension):
    return reports(dataset) / "figures" / f"{name}.{extension}"


def study():
    """A line for each training of the seed study of drawn data; tracked by git, see `pipeline.reporting.study`."""
    return ROOT / "reports" / "seed_study" / "runs.csv"


def statistics(dataset, direction, extension):
    return reports(dataset) / "statistics" / f"{direction}.{extension}"


# Under home(): not tracked, shared by every copy of the working tree.


def images(dataset, subset):
    return images_root(dataset) / subset


def images_root(dataset):
    return home() / "data" / dataset / "images"


def scratch(fingerprint):
    """Resumable state of one training; the fingerprint covers all that changes its numbers."""
    return home() / "scratch" / fingerprint


def labelling_key(fingerprint):
    """The name in place of a training's fingerprint for what is saved while it labels images."""
    return f"{fingerprint}.labels"


def saved_predictions(fingerprint):
    """Detections of a training, a line an image, until its scores are written."""
    return scratch(fingerprint) / "predictions.jsonl"


def statuses(dataset):
    """What became of the latest attempt at each run, a file for each."""
    return home() / "scratch" / "status" / dataset


def tracking_records():
    """What MLflow is to hold of each training, see pipeline.tracking.record."""
    return home() / "scratch" / "tracking"


def launch_log(name):
    """Output of one step of `commands.launch`."""
    return home() / "scratch" / "launch" / f"{name}.log"


def tracking_store():
    return home() / "mlruns" / "mlflow.db"
