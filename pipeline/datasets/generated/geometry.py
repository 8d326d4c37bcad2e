"""Where the shapes of a scene lie: placing, hiding, boxes, and polygons that rasterise to exactly the same mask.

Coordinates: x right, y down. "Unit frame" is the frame of a shape before it is turned, scaled and moved.
"""

import cv2
import numpy as np

MAX_BOX_IOU = 0.3
MAX_COVERED = 0.4  # share of an object that others may hide
SUBPIXEL_BITS = 4
UPRIGHT = np.eye(2)


def outlines(mask):
    """Trace a mask along its pixel edges, so that the polygons rasterise to exactly the same mask.

    The contour of the mask at twice its size has one vertex on either side of every pixel edge; both map to
    that edge.

    Args:
        mask: uint8 [H, W], nonzero inside, without holes.

    Returns:
        One flat COCO polygon `[x0, y0, x1, y1, ...]` of ints per connected part; pixel i covers [i, i + 1].
    """
    box = bounding_box(mask)
    left, top = box[:2]
    twice = cv2.resize(cut(mask, box), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(2 * left, 2 * top))
    polygons = []
    for contour in contours:
        points = (contour[:, 0] + 1) // 2
        points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
        polygons.append(points.ravel().tolist())
    return polygons


def bounding_box(mask):
    """Box `(x, y, width, height)` in pixels around the nonzero cells of uint8 `mask` [H, W]."""
    return cv2.boundingRect(mask)


def box_iou(a, b):
    """IoU of two boxes `(x, y, width, height)`."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)


class Figure:
    """A placed shape: what is drawn, and which pixels of it are visible.

    Attributes:
        polygons: int32 [V, 2] of each part, in pixels times 2 ** SUBPIXEL_BITS; cv2 has pixel centres at whole numbers.
        alpha: uint8 [H, W], coverage of each pixel, 0 to 255.
        mask: uint8 [H, W] of 0 and 1, all pixels of the shape.
        visible: like mask, without the pixels that later figures hide.
        box: of `visible`, `(x, y, width, height)` in pixels.
    """

    def __init__(self, parts, size, image_size, rotation=UPRIGHT, place=(0.5, 0.5)):
        """Put a shape into an image.

        Args:
            parts: polygons [V, 2] in the unit frame, bottom first.
            size: longer side of its box, in pixels.
            image_size: width and height of the image, in pixels.
            rotation: [2, 2], orthogonal, from the unit frame to that of the image.
            place: share of the free room that lies left of its box, and above it.
        """
        self.rotation = rotation
        parts = [part @ rotation.T for part in parts]
        points = np.concatenate(parts)
        low = points.min(axis=0)
        extent = points.max(axis=0) - low
        self.scale = size / extent.max()
        self.centre = place * (image_size - extent * self.scale) - low * self.scale
        self.alpha = np.zeros((image_size, image_size), np.uint8)
        self.polygons = []
        for part in parts:
            pixels = (part * self.scale + self.centre - 0.5) * (1 << SUBPIXEL_BITS)
            self.polygons.append(np.round(pixels).astype(np.int32))
            cv2.fillPoly(self.alpha, self.polygons[-1:], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        self.mask = cv2.threshold(self.alpha, 127, 1, cv2.THRESH_BINARY)[1]
        self.visible = self.mask
        self.box = bounding_box(self.mask)

    @classmethod
    def at_random(cls, rng, parts, size, image_size, turn=None):
        """Put a shape at a random angle and place.

        Args:
            rng: numpy Generator.
            turn: largest angle in degrees by which it is turned, and mirrored in half of the cases; None for any angle.
            parts, size, image_size: as of the class.
        """
        angle = rng.uniform(0, 2 * np.pi) if turn is None else np.radians(rng.uniform(-turn, turn))
        mirror = (-1.0, 1.0) if turn is not None and rng.random() < 0.5 else (1.0, 1.0)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * mirror
        return cls(parts, size, image_size, rotation, rng.random(2))

    def crop(self):
        """Slices of the image that hold all of `alpha`."""
        x, y, width, height = bounding_box(self.alpha)
        return slice(y, y + height), slice(x, x + width)

    def unit_frame(self, rows, columns):
        """Coordinates x, y in the unit frame of the pixel centres in a crop, float32 [h, w] each."""
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5 - np.float32(self.centre[0])
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - np.float32(self.centre[1])
        (a, b), (c, d) = self.rotation.astype(np.float32) / np.float32(self.scale)
        return x * a + y * c, x * b + y * d


def cut(mask, box):
    """The part of a mask [H, W] inside a box `(x, y, width, height)`."""
    x, y, width, height = box
    return mask[y : y + height, x : x + width]


def whole(mask):
    """Whether uint8 `mask` [H, W], not empty, has no hole: COCO polygons cannot express one."""
    _, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return np.all(hierarchy[0, :, 3] < 0)


def put_on_top(figures, new):
    """Put `new` on top of `figures` if that keeps all bounds and makes no hole. Gives success."""
    if not whole(cut(new.mask, new.box)):  # the gap of a small ring may close
        return False
    changes = []
    for figure in figures:
        visible, box = figure.visible, figure.box
        if box_iou(figure.box, new.box) > 0:
            visible = cv2.subtract(figure.visible, new.mask)
            if cv2.countNonZero(visible) < (1 - MAX_COVERED) * cv2.countNonZero(figure.mask):
                return False
            if not whole(cut(visible, figure.box)):
                return False
            box = bounding_box(visible)
        changes.append((visible, box))
    boxes = [box for _, box in changes] + [new.box]
    if any(box_iou(a, b) > MAX_BOX_IOU for i, a in enumerate(boxes) for b in boxes[:i]):
        return False
    for figure, (visible, box) in zip(figures, changes, strict=True):
        figure.visible, figure.box = visible, box
    figures.append(new)
    return True
