"""Tell the model where the training stands, and log what the RoI head counts."""

from mmcv.parallel import is_module_wrapper
from mmcv.runner import HOOKS, Hook, get_dist_info


@HOOKS.register_module()
class TrainingProgressHook(Hook):
    """Set seed, iteration and epoch of the RoI head before each step and log its statistics after it.

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
        """Pass the progress to the RoI head."""
        rank, _ = get_dist_info()
        _roi_head(runner).set_progress(runner.iter, runner.iter / self.iters_per_epoch, self.seed, rank)

    def after_train_iter(self, runner):
        """Write the statistics of the step into the runner's log."""
        runner.log_buffer.update({name: float(value) for name, value in _roi_head(runner).statistics.items()})


def _roi_head(runner):
    model = runner.model.module if is_module_wrapper(runner.model) else runner.model
    return model.roi_head
