"""How shapes and ground are painted, in float32 BGR canvases [H, W, 3] with values in 0 to 255."""

import math

import cv2
import numpy as np

from pipeline.datasets.generated.geometry import Figure
from pipeline.datasets.generated.looks import TEXTURES, polar

REFERENCE_SIZE = 128  # the image size for which lengths are given


def colour(hue, saturation, value):
    """BGR float32 [3] in 0 to 255 from hue in degrees, saturation and value in [0, 1]."""
    pixel = np.array([[[hue % 360, saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0] * 255


def blend(canvas, figure, tone, colours, shade=1.0):
    """Draw a figure onto float32 `canvas` [H, W, 3]; `tone` [h, w] in [0, 1] mixes the colours."""
    crop = figure.crop()
    paint = colours[0] + (colours[1] - colours[0]) * tone[..., None]
    alpha = (figure.alpha[crop].astype(np.float32) / 255)[..., None]
    region = canvas[crop]
    region += alpha * (paint * shade - region)


def dull_pair(rng, contrast, saturation):
    """Two dull colours whose values differ by about `contrast` of full scale."""
    hue, value = rng.uniform(0, 360), rng.uniform(0.4, 0.75)
    low, high = max(value - contrast / 2, 0.1), min(value + contrast / 2, 0.95)
    return colour(hue, saturation, low), colour(hue + rng.uniform(-60, 60), saturation, high)


def background(rng, image_size):
    """A textured, dull ground."""
    period = rng.uniform(0.35, 1.2) * image_size / 2  # pixels per unit of the texture frame
    angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform(0, image_size, size=2).astype(np.float32)
    pixels = np.arange(image_size, dtype=np.float32)
    x, y = (pixels[None, :] - centre[0]) / period, (pixels[:, None] - centre[1]) / period
    cos, sin = math.cos(angle), math.sin(angle)
    texture = TEXTURES[list(TEXTURES)[rng.integers(len(TEXTURES))]]
    tone = texture(x * cos + y * sin, y * cos - x * sin, rng.uniform(0, 6.3))
    low, high = dull_pair(rng, rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.35))
    canvas = tone[..., None] * (high - low)
    canvas += low
    return canvas


def distractor(rng, canvas, sizes, contrasts, saturations):
    """Draw a shape that no category has.

    Args:
        sizes: range of its longer side, in pixels of a 128-pixel image.
        contrasts, saturations: ranges of its colours, as in `dull_pair`.
    """
    angle = np.arange(36) * 2 * np.pi / 36
    radius = 1 + sum(rng.uniform(0, 0.35) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5))
    size = rng.uniform(*sizes) * len(canvas) / REFERENCE_SIZE
    figure = Figure.at_random(rng, [polar(np.maximum(radius, 0.25), angle)], size, len(canvas))
    texture = TEXTURES[list(TEXTURES)[rng.integers(len(TEXTURES))]]
    tone = texture(*figure.unit_frame(*figure.crop()), rng.uniform(0, 6.3))
    blend(canvas, figure, tone, dull_pair(rng, rng.uniform(*contrasts), rng.uniform(*saturations)))


def exposed(rng, canvas, deviation):
    """The image of a canvas, which is used up: uint8, with noise of a standard deviation that all channels share."""
    canvas += deviation * rng.standard_normal(size=canvas.shape[:2], dtype=np.float32)[..., None]
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
