"""Train one resolved run with mmcv's iteration-based runner, resumable at any time.

All state lives in `scratch/<fingerprint>/`, outside DVC (which deletes outputs when a stage starts):
`state_<iteration>.pth` (model, optimiser, random generators; the last two are kept), `log.jsonl`, `progress.json`, and
at the end `checkpoint.pth`. A finished fingerprint is never trained twice. The stage copies the result to its DVC
outputs.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import functools
import io
import json
import logging
import os
import random
import shutil
import time
from pathlib import Path

import mmcv
import numpy as np
import torch
from filelock import FileLock, Timeout
from mmcv.parallel import collate
from mmcv.runner import HOOKS, Hook, TextLoggerHook, build_optimizer, build_runner
from mmdet.datasets import build_dataset
from mmdet.models import build_detector
from mmdet.utils import build_dp
from torch.utils.data import DataLoader

import pipeline.datasets.partial  # noqa: F401  # registers the dataset and its steps
from pipeline import paths
from pipeline.config import fingerprint
from pipeline.datasets.sampler import IterationBatchSampler
from pipeline.errors import ExperimentError
from pipeline.machine import data_workers, use_device

logger = logging.getLogger("pipeline.training")


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def save_atomically(content, path):
    """Write a checkpoint under a temporary name, then rename it: a killed write never looks complete."""
    buffer = io.BytesIO()  # torch.save names the archive after the file; a buffer keeps the bytes the same everywhere
    torch.save(content, buffer)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def train(training, tracker=None):
    """Train, or continue, or find finished. Returns the scratch folder with checkpoint.pth, config.py and log.jsonl.

    Args:
        training: pipeline.config.Training.
        tracker: pipeline.tracking.Tracker or None; a mirror, never an input.

    Raises:
        ExperimentError: missing inputs, another process training the same thing, non-finite loss, bad data.
    """
    identity = fingerprint(training)
    scratch = paths.scratch(identity)
    scratch.mkdir(parents=True, exist_ok=True)
    with _locked(scratch, training.name):
        if (scratch / "checkpoint.pth").exists():
            logger.info("%s seed %d: already trained, reusing %s", training.name, training.seed, identity)
        else:
            _train(training, identity, scratch, tracker)
        if tracker:
            tracker.log_history(read_log(scratch / "log.jsonl"))
    return scratch


def _locked(scratch, name):
    """Hold the folder of a training, waiting with a message for another process that has it."""
    lock = FileLock(scratch / "lock")
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        logger.info("%s: another process trains %s; waiting for it", name, scratch.name)
        return lock.acquire()


def read_log(path):
    """Records of a log.jsonl; a last line cut short by a kill is dropped."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _train(training, identity, scratch, tracker):
    device = use_device()
    seed_everything(training.seed)
    dataset = build_dataset(
        dict(
            type="PartialCocoDataset",
            ann_file=str(paths.split_train(training.dataset, training.split)),
            img_prefix=str(paths.images(training.dataset, "train2017")),
            pipeline=training.data["train"],
        )
    )
    epoch = IterationBatchSampler(
        dataset.flag, training.data["images_per_gpu"], training.seed, 0, 0
    ).iterations_per_epoch
    config = runner_config(training, epoch)
    (scratch / "config.py").write_text(mmcv.Config(config).pretty_text + "\n")

    model = build_detector(mmcv.ConfigDict(training.model))
    logging.disable(logging.INFO)  # mmcv logs a paragraph for every parameter it initialises
    model.init_weights()
    logging.disable(logging.NOTSET)
    if training.initial_weights:
        load_initial_weights(model, paths.initial_weights(training.dataset, training.backbone))
    model.CLASSES = dataset.CLASSES
    model = build_dp(model, device, device_ids=range(1))
    optimizer = build_optimizer(model, config["optimizer"])

    start = 0
    state = latest_state(scratch)
    if state:
        start = state["iteration"]
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        restore_generators(state["generators"])
    logger.info(
        "%s seed %d: %s, %d iterations of %d images, %d training images, %s, state in %s",
        training.name, training.seed, f"resumed at iteration {start}" if start else "fresh",
        config["runner"]["max_iters"], training.data["images_per_gpu"], len(dataset), device, scratch,
    )  # fmt: skip

    loader = DataLoader(
        dataset,
        batch_sampler=IterationBatchSampler(
            dataset.flag, training.data["images_per_gpu"], seed=training.seed, start_iteration=start,
            max_iterations=config["runner"]["max_iters"],
        ),
        num_workers=data_workers(),
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else starting the workers would draw from the restored global generator
        collate_fn=functools.partial(collate, samples_per_gpu=training.data["images_per_gpu"]),
        pin_memory=device == "cuda",
    )  # fmt: skip
    runner = build_runner(
        config["runner"],
        default_args=dict(
            model=model, optimizer=optimizer, work_dir=str(scratch), logger=logger, meta=None,
        ),
    )  # fmt: skip
    runner.timestamp = "mmcv"
    runner._iter = runner._inner_iter = start
    runner.register_training_hooks(
        config["lr_config"], config["optimizer_config"], None, config["log_config"],
        custom_hooks_config=config["custom_hooks"],
    )  # fmt: skip
    runner.register_hook(StateHook(scratch, training.optimisation["checkpoint_interval"]), priority="LOWEST")
    runner.register_hook(ProgressHook(scratch, training.optimisation["log_interval"], start), priority="LOWEST")
    if tracker:
        runner.register_hook(TrackerHook(tracker), priority="LOWEST")
    cut_log(scratch / "log.jsonl", start)
    began = time.monotonic()
    runner.run([loader], [("train", 1)])
    save_atomically(
        {"state_dict": {key: value.cpu() for key, value in model.module.state_dict().items()},
         "meta": {"fingerprint": identity, "CLASSES": list(dataset.CLASSES)}},
        scratch / "checkpoint.pth",
    )  # fmt: skip
    for leftover in scratch.glob("state_*.pth*"):
        leftover.unlink()
    logger.info("%s seed %d: trained in %.0f s", training.name, training.seed, time.monotonic() - began)


def runner_config(training, iterations_per_epoch):
    """mmcv configuration of the training loop, for as many iterations per epoch as the batch sampler has.

    Iterations are forward passes: where a step's batch is larger than what one process loads, gradients accumulate.
    """
    data, optimisation, schedule = training.data, training.optimisation, training.schedule
    accumulate, rest = divmod(data["batch_size"], data["images_per_gpu"])
    if rest:
        raise ExperimentError(
            f"batch_size {data['batch_size']} is not a multiple of images_per_gpu {data['images_per_gpu']} "
            "(pipeline/experiments.yaml, profiles.<profile>.training)"
        )
    epoch = -(-iterations_per_epoch // accumulate) * accumulate
    unit = epoch if "epochs" in schedule else accumulate
    length = schedule.get("epochs", schedule.get("iterations")) * unit
    lr = {"by_epoch": False, "warmup": "linear", "warmup_ratio": 0.001,
          "warmup_iters": optimisation["warmup_iterations"] * accumulate}  # fmt: skip
    if optimisation["lr_policy"] == "step":
        lr |= {"policy": "step", "step": [milestone * unit for milestone in schedule["milestones"]]}
    else:
        lr |= {"policy": "CosineAnnealing", "min_lr": 0.0}
    masks = training.model["type"] == "MaskRCNN"
    step = {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": accumulate} if accumulate > 1 else {}
    return {
        "model": training.model,
        "data": data,
        "seed": training.seed,
        "runner": {"type": "IterBasedRunner", "max_iters": length},
        "optimizer": optimisation["optimizer"],
        "optimizer_config": {"grad_clip": None, **step},
        "lr_config": lr,
        "log_config": {
            "interval": optimisation["log_interval"],
            "hooks": [{"type": "RunLogHook", "run": training.name}],
        },
        "custom_hooks": [{"type": "TrainingProgressHook", "seed": training.seed, "iters_per_epoch": epoch}]
        if masks
        else [],
    }


def load_initial_weights(model, path):
    """Load the weights of the `pretrain` stage; every one of them must have its place in the model."""
    weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    result = model.load_state_dict(weights, strict=False)
    if result.unexpected_keys:
        raise ExperimentError(
            f"{path}: {result.unexpected_keys[0]!r} has no place in the model; run `dvc repro -f pretrain`"
        )
    logger.info("loaded %d tensors from %s; %d start fresh", len(weights), path, len(result.missing_keys))


def generators():
    """State of every global random generator, in types that `weights_only` loading accepts."""
    name, keys, *rest = np.random.get_state()
    state = {"torch": torch.get_rng_state(), "python": random.getstate(),
             "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest]}  # fmt: skip
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_generators(state):
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def latest_state(scratch):
    """The newest readable state of a training, or None. An unreadable one is reported and the one before it used."""
    for path in sorted(scratch.glob("state_*.pth"), reverse=True):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file may fail in any way; the state before it is as good
            logger.warning("%s cannot be read (%s); using the state before it", path, type(error).__name__)
    return None


def cut_log(path, iteration):
    """Keep the records up to `iteration`; later ones will be written again."""
    kept = [record for record in read_log(path) if record["iter"] <= iteration] if path.exists() else []
    temporary = path.with_name(path.name + ".part")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
    os.replace(temporary, path)


class StateHook(Hook):
    """Write the resumable state every `interval` iterations; keep the last two."""

    def __init__(self, scratch, interval):
        self.scratch, self.interval = scratch, interval

    def after_train_iter(self, runner):
        if not self.every_n_iters(runner, self.interval):
            return
        iteration = runner.iter + 1
        save_atomically(
            {"iteration": iteration, "model": runner.model.module.state_dict(),
             "optimizer": runner.optimizer.state_dict(), "generators": generators()},
            self.scratch / f"state_{iteration:08d}.pth",
        )  # fmt: skip
        for old in sorted(self.scratch.glob("state_*.pth"))[:-2]:
            old.unlink()


class ProgressHook(Hook):
    """Tell other processes how far this training is and how fast: scratch/progress.json.

    `seconds` is the training time of this and earlier processes up to `iteration`, start-up left out.
    """

    def __init__(self, scratch, interval, start):
        self.path, self.interval, self.start = scratch / "progress.json", interval, start
        try:
            earlier = json.loads(self.path.read_text())
            self.before = earlier["seconds"] * min(1.0, start / max(earlier["iteration"], 1))
        except (FileNotFoundError, json.JSONDecodeError):
            self.before = 0.0

    def before_run(self, runner):
        self.began = time.monotonic()

    def after_train_iter(self, runner):
        if self.every_n_iters(runner, self.interval) or self.is_last_iter(runner):
            progress = {"iteration": runner.iter + 1, "of": runner.max_iters,
                        "seconds": self.before + time.monotonic() - self.began}  # fmt: skip
            temporary = self.path.with_name(self.path.name + ".part")
            temporary.write_text(json.dumps(progress))
            os.replace(temporary, self.path)


class TrackerHook(Hook):
    """Mirror the log to MLflow while training."""

    def __init__(self, tracker):
        self.tracker = tracker

    def after_train_iter(self, runner):
        if runner.log_buffer.ready:
            self.tracker.log_history(read_log(Path(runner.work_dir) / "log.jsonl")[-1:])


@HOOKS.register_module()
class RunLogHook(TextLoggerHook):
    """Print progress with ETA and data time, append the losses to log.jsonl, and stop at a non-finite loss.

    log.jsonl has no times, so that the same training writes the same bytes.
    """

    def __init__(self, run, **kwargs):
        super().__init__(**kwargs)
        self.run = run

    def _dump_log(self, log_dict, runner):
        record = {
            key: float(value) if isinstance(value, np.floating) else value
            for key, value in log_dict.items()
            if key not in ("mode", "epoch", "time", "data_time", "memory")
        }
        for name, value in record.items():
            if not np.isfinite(value):
                raise ExperimentError(
                    f"run {self.run}: {name} is {value} at iteration {record['iter']}; lower the learning rate "
                    f"(profiles.<profile>.training.optimizer.lr) or check the data; state is kept in {runner.work_dir}"
                )
        with open(os.path.join(runner.work_dir, "log.jsonl"), "a") as file:
            file.write(json.dumps(record) + "\n")


def publish(scratch, dataset, run, seed):
    """Copy a finished training to the DVC outputs of its run."""
    for name, target in (("checkpoint.pth", paths.checkpoint(dataset, run, seed)),
                         ("config.py", paths.config(dataset, run, seed)),
                         ("log.jsonl", paths.log(dataset, run, seed))):  # fmt: skip
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".part")
        shutil.copyfile(scratch / name, temporary)
        os.replace(temporary, target)
