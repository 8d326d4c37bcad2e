"""Trainings: what is computed apart from what is told about it.

`computation` is the root of all that can change a weight: sampler, schedule, update, precision, progress, starting
weights, collectives, data_parallel. Its import closure, and those of a run's method and task, identify a training.
`loop` runs it, with `states`, `journal` and `interruption`. Nothing there can change a weight, and nothing that
`computation` imports may import it, so that a mended message trains nothing again. `torchrun` and `training_process`
start a training in several processes, `initial_weights` makes what runs start from.
"""
