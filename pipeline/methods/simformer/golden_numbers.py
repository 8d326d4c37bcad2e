"""The numbers that the fixtures of the released SimFormer code were made with: functions of a name and a shape.

SplitMix64 of a counter that starts at the CRC-32 of the name; numpy alone. Imported by no training.
"""

import math
import zlib

import numpy as np
from torch import Tensor, from_numpy


def uniform(name: str, shape, scale: float = 1.0) -> Tensor:
    """Float32 numbers in (-1, 1), times a scale."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        state = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        state = (state + np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    numbers = (state >> np.uint64(11)).astype(np.float64) / 2**52 - 1
    return from_numpy((numbers.astype(np.float32) * np.float32(scale)).reshape(tuple(shape)))


def noise(name: str, shape) -> Tensor:
    """The same in (0, 1)."""
    return from_numpy(np.float32(0.5) * (uniform(name, shape).numpy() + np.float32(1)))


def value(key: str, shape) -> Tensor:
    """The value of a parameter or buffer of the released code, from its key. Raises KeyError for an unknown kind."""
    leaf, shape = key.rsplit(".", 1)[-1], tuple(shape)
    if leaf == "num_batches_tracked":
        return from_numpy(np.zeros(shape, np.int64))
    drawn = uniform(key, shape).numpy()
    if leaf == "running_mean":
        drawn = np.float32(0.1) * drawn
    elif leaf == "running_var":
        drawn = np.float32(1) + np.float32(0.5) * drawn
    elif len(shape) >= 2:
        drawn = np.float32(_gain(key, shape)) * drawn
    elif leaf == "weight":
        drawn = np.float32(1) + np.float32(0.2) * drawn
        drawn = np.float32(0.3) * drawn if key.endswith("conv3.norm.weight") else drawn
    elif leaf.endswith("bias"):
        drawn = np.float32(0.05) * drawn
    else:
        raise KeyError(key)
    return from_numpy(drawn)


GAINS = (
    (("query_embed.weight",), 8),
    (("class_embed.weight",), 6),
    (("mask_embed.layers.2.weight", "mask_features.weight"), 0.6),
)


def _gain(key, shape):
    gain = math.sqrt(6.0 / (math.prod(shape) // shape[0]))
    return gain * next((factor for ends, factor in GAINS if key.endswith(ends)), 1)


def image(name: str, height: int, width: int) -> np.ndarray:
    """An RGB image, uint8 [height, width, 3]: waves and noise."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(2 * np.pi * (x / (17 + 5 * c) + y / (23 - 4 * c))) for c in range(3)]
    grains = uniform(name, (height, width, 3)).numpy().astype(np.float64)
    return np.clip(np.rint(128 + 70 * np.stack(waves, -1) + 50 * grains), 0, 255).astype(np.uint8)
