"""What a training computes: images, model, first weights, losses, updates.

Everything that can change a weight, and only that: nothing here writes a file, takes a lock or listens to a signal.

A loop of our own and not mmcv's runner: with our own sampler, states, log and parallel model, what was left of that
were hooks that had to be called in the right order. The learning rates, the scaling of gradients and the values of the
log are the runner's, bit for bit. A step waits for none of its numbers: on a GPU that would cost more than to compute
them.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import functools
import logging
import random
import time
from dataclasses import dataclass

import mmcv
import numpy as np
import torch
from mmcv.parallel import collate
from mmdet.models import build_detector
from torch.utils.data import DataLoader

from pipeline.processes import tie_to_trainer
from pipeline.training import data_parallel, starting_weights
from pipeline.training.collectives import rank, world_size
from pipeline.training.losses import total
from pipeline.training.precision import use_autocast
from pipeline.training.progress import Progress
from pipeline.training.sampler import IterationBatchSampler, divide
from pipeline.training.schedule import Schedule
from pipeline.training.update import Update


@dataclass
class Step:
    """What one step has to tell.

    Attributes:
        number: steps done, this one included.
        rate: learning rate of the first parameters.
        values: (name, value, weight in a mean) of each loss and statistic of each of its iterations, of this process; a
            value is a number, or one in a tensor [] that nobody has waited for yet.
        waited: seconds for data.
    """

    number: int
    rate: float
    values: list[tuple[str, float | torch.Tensor, int]]
    waited: float


class Computation:
    """One training, in this process alone or as one of several.

    A step is one update of the weights by `batch_size` images. Each process makes it in as many iterations (forward
    passes) as its share of the images needs. Steps are counted here; what is counted in iterations is the schedule and
    what a model is told of its progress.

    Args:
        training: pipeline.declaration.config.Training. The types of its model are known to MMDetection.
        training_set: () -> its training set, as MMDetection's trainer takes it: with `flag` and `CLASSES`.
        autocast: (dotted name, method) of the parts of its model that run in lower precision.
        starts_from: file of the weights that it starts from, or None.
        device: 'cuda' or 'cpu'.

    Attributes:
        steps: of the whole training.
    """

    def __init__(self, training, training_set, autocast, starts_from, device):
        seed_everything(training.seed)
        self.device, self.dataset = device, training_set()
        self.images, self.accumulate = divide(
            training.data["batch_size"], training.data["images_per_gpu"], world_size()
        )
        self._batches = functools.partial(
            IterationBatchSampler,
            self.dataset.flag,
            self.images,
            training.seed,
            rank=rank(),
            world_size=world_size(),
            accumulate=self.accumulate,
        )
        iterations_per_epoch = self._batches(0, 0).iterations_per_epoch
        self.schedule = Schedule.of(training, iterations_per_epoch, self.accumulate)
        self.steps = self.schedule.iterations // self.accumulate
        self.model = _build(training.model, starts_from)
        self.model.CLASSES = self.dataset.CLASSES
        use_autocast(self.model, autocast, device, training.optimisation["precision"])
        self.model.to(device)
        self._parallel = data_parallel.averaged(self.model) if world_size() > 1 else self.model
        self.update = Update(self.model, training.optimisation, self.accumulate)
        self._progress = Progress(self.model, training.seed, self.schedule.epoch, rank())
        if rank():  # the others draw RoIs of their own
            seed_everything(int(np.random.SeedSequence([training.seed, rank()]).generate_state(1)[0]))

    def run(self, done, workers):
        """Train, and yield every `Step` when it is over.

        Args:
            done: steps already done, in an earlier attempt whose state was restored.
            workers: processes that load data.
        """
        batches = iter(self._loader(done, workers))
        self._parallel.train()
        for step in range(done, self.steps):
            yield self._step(step, batches)

    def _loader(self, done, workers):
        return DataLoader(
            self.dataset,
            batch_sampler=self._batches(done * self.accumulate, self.schedule.iterations),
            num_workers=workers,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # else starting the workers would draw from the restored global generator
            collate_fn=functools.partial(collate, samples_per_gpu=self.images),
            pin_memory=self.device == "cuda",
            worker_init_fn=tie_to_trainer,
        )

    def _step(self, step, batches):
        values, waited = [], 0.0
        for iteration in range(step * self.accumulate, (step + 1) * self.accumulate):
            began = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - began
            rate = self.update.set_rates(functools.partial(self.schedule.rate, iteration=iteration))
            self._progress.tell(iteration)
            batch = data_parallel.to_device(batch, self.device)
            images = len(batch["img_metas"])
            loss, losses = total(self._parallel(**batch))
            values += ((name, value, images) for name, value in losses.items())
            self.update.add(loss)
            if (iteration + 1) % self.accumulate == 0 and (norm := self.update.apply()) is not None:
                values.append(("grad_norm", norm, images))
            values += ((name, value, 1) for name, value in self._progress.statistics().items())
        return Step(step + 1, rate, values, waited)


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _build(configuration, starts_from):
    model = build_detector(mmcv.ConfigDict(configuration))
    logging.disable(logging.INFO)  # mmcv logs a paragraph for every parameter it initialises
    model.init_weights()
    logging.disable(logging.NOTSET)
    if starts_from:
        starting_weights.load(model, starts_from)
    return model
