"""Boxes and maps of ShapeMask (Kuo et al., ICCV 2019): jitter, outer boxes, a map of one box seen in another, targets.

As the released code has them (github.com/tensorflow/tpu 7dc921f, models/official/detection); boxes here are x1, y1, x2,
y2 in pixels of the network's input.

Legend: R RoIs, S cells on a side of a map, G objects of an image, H and W its height and width.
"""

import torch
from torch import Tensor


def jittered(boxes: Tensor, noise: Tensor) -> Tensor:
    """Move and scale boxes.

    Args:
        boxes: [..., 4].
        noise: [..., 4], of the centre (x, y) in sizes of the box, and the logarithm of what width and height are
            multiplied by.

    Returns:
        [..., 4].
    """
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * size
    centre = centre + noise[..., :2] * size
    half = 0.5 * size * noise[..., 2:].exp()
    return torch.cat([centre - half, centre + half], -1)


def clipped(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes [..., 4] clipped to the centres of an image's pixels, 0 to side - 1."""
    x = boxes[..., 0::2].clamp(0, width - 1)
    y = boxes[..., 1::2].clamp(0, height - 1)
    return torch.stack([x, y], -1).flatten(-2)


def outer(boxes: Tensor, scale: float, height: int, width: int) -> Tensor:
    """Boxes [..., 4] enlarged about their centres and clipped to the image: the frame that masks are predicted in."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre, half = boxes[..., :2] + 0.5 * size, 0.5 * scale * size
    return clipped(torch.cat([centre - half, centre + half], -1), height, width)


def in_other_box(maps: Tensor, boxes: Tensor, frames: Tensor) -> Tensor:
    """See maps of boxes in the frames of other boxes; outside of its box a map is zero.

    Cell i of n of a frame is sampled bilinearly at its corner, i / n, and cell j of a map stands at j / n of its box.

    Args:
        maps: [R, S, S].
        boxes: [R, 4], what the maps are of. One without extent counts as a point.
        frames: [R, 4].

    Returns:
        [R, S, S] float32.
    """
    cells = maps.shape[-1]
    place = torch.arange(cells, device=maps.device, dtype=torch.float32)
    extent = boxes[:, 2:] - boxes[:, :2] + 1e-8
    start = (frames[:, :2] - boxes[:, :2]) * cells / extent  # [R, x and y] in cells of the map
    size = (frames[:, 2:] - frames[:, :2]) * cells / extent
    sampled = start[..., None] + place * size[..., None] / cells  # [R, x and y, S]
    weights = (1 - (sampled[..., None] - place).abs()).clamp(min=0)  # [R, x and y, S of the frame, S of the map]
    with torch.autocast(maps.device.type, enabled=False):
        return weights[:, 1] @ maps.float() @ weights[:, 0].transpose(1, 2)


def mask_targets(masks: Tensor, owners: Tensor, frames: Tensor, cells: int) -> Tensor:
    """Crop masks to frames, by `tf.image.crop_and_resize` with the released code's normalisation of boxes.

    The corner cells of a crop lie on the corners of its frame, whose coordinates count from the first to the last pixel
    centre: x / W * (W - 1).

    Args:
        masks: [G, H, W] bool or 0/1.
        owners: [R] int64, whose mask.
        frames: [R, 4].
        cells: cells on a side.

    Returns:
        [R, cells, cells] float32 in [0, 1]; a cell is foreground from 0.5 on.
    """
    if not len(owners):
        return torch.zeros(0, cells, cells, device=frames.device)
    height, width = masks.shape[1:]
    x, columns, next_columns, columns_inside = _samples(frames[:, 0::2], width, cells)
    y, rows, next_rows, rows_inside = _samples(frames[:, 1::2], height, cells)

    def at(rows, columns):
        return masks[owners[:, None, None], rows[:, :, None], columns[:, None]].to(torch.float32)

    x, y = x[:, None], y[:, :, None]
    top, bottom = at(rows, columns), at(next_rows, columns)
    top = top + (at(rows, next_columns) - top) * x
    bottom = bottom + (at(next_rows, next_columns) - bottom) * x
    return (top + (bottom - top) * y) * (rows_inside[:, :, None] & columns_inside[:, None])


def _samples(sides, length, cells):
    """Where samples of one axis fall: share of the way from a pixel to the next, both, and whether in the image.

    In the order of the operations of the released code, so that cells on the threshold fall as there.
    """
    low, high = (sides / length).unbind(1)
    step = (high - low) * (length - 1) / max(cells - 1, 1)
    place = (low * (length - 1))[:, None] + torch.arange(cells, device=sides.device) * step[:, None]
    inside = (place >= 0) & (place <= length - 1)
    first = place.floor()
    share = place - first
    lower = first.long().clamp(0, length - 1)
    return share, lower, place.ceil().long().clamp(0, length - 1), inside
