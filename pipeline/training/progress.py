"""Tell the model where the training stands, and log what it counts."""

from mmcv.parallel import is_module_wrapper
from mmcv.runner import HOOKS, Hook, get_dist_info


@HOOKS.register_module()
class TrainingProgressHook(Hook):
    """Before each step tell every module that has `set_progress`, after it log the `statistics` of those that have any.

    Key sampling and the warm-up weight are functions of these numbers, so a resumed training continues them without any
    saved state. The statistics go to the log by themselves; they are no part of the loss dictionary.

    Args:
        seed: seed of the run.
        iters_per_epoch: iterations of one pass over the training set on this many devices.
    """

    def __init__(self, seed: int, iters_per_epoch: int):
        self.seed = seed
        self.iters_per_epoch = iters_per_epoch

    def before_train_iter(self, runner):
        """Pass the progress on."""
        rank, _ = get_dist_info()
        for module in _having(runner, "set_progress"):
            module.set_progress(runner.iter, runner.iter / self.iters_per_epoch, self.seed, rank)

    def after_train_iter(self, runner):
        """Write the statistics of the step into the runner's log."""
        for module in _having(runner, "statistics"):
            runner.log_buffer.update({name: float(value) for name, value in module.statistics.items()})


def _having(runner, attribute):
    model = runner.model.module if is_module_wrapper(runner.model) else runner.model
    return [module for module in model.modules() if hasattr(module, attribute)]
