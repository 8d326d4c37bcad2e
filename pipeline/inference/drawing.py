"""Objects drawn over a picture: outline, a touch of colour and a label, for looking through many of them."""

import base64
import colorsys
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.reporting import lettering
from pipeline.reporting.class_colours import GOLDEN

TINT = 0.35
NAMED = 0.02  # of a picture's longer side: radius of a region from which on it bears its name
QUALITY = 88  # of JPEG


def colour(label):
    """The colour of a class, (r, g, b)."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb((0.04 + label * GOLDEN) % 1, 0.85, 0.95))


def hexadecimal(label):
    """The same for style sheets."""
    return "#{:02x}{:02x}{:02x}".format(*colour(label))


def overlay(image, objects):
    """Draw objects over a picture.

    Args:
        image: [H, W, 3] uint8 BGR; stays as it is.
        objects: list of (label, mask [H, W] bool, text), the first one in front.

    Returns:
        [H, W, 3] uint8 BGR.
    """
    drawn = image.copy()
    line = max(1, round(max(image.shape[:2]) / 500))
    places = []
    for label, mask, text in reversed(objects):
        bgr = colour(label)[::-1]
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        if not width:
            continue
        part = (slice(top, top + height), slice(left, left + width))
        inside = mask[part]
        drawn[part][inside] = ((1 - TINT) * drawn[part][inside] + TINT * np.array(bgr)).astype(np.uint8)
        contours, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
        )
        cv2.drawContours(drawn, contours, -1, bgr, line)
        places.append((left, top, text, colour(label)))
    return _labelled(drawn, places)


def regions(image, label_map, colours, names):
    """Draw a label map over a picture: colours, borders, and the name of a class in its largest region.

    Args:
        image: [H, W, 3] uint8 BGR; stays as it is.
        label_map: [H, W] positions of classes; that behind the last one is no class, and is left bare.
        colours: [K + 1, 3] uint8 RGB.
        names: of the K classes.

    Returns:
        [H, W, 3] uint8 BGR.
    """
    drawn, known = image.copy(), label_map < len(names)
    bgr = colours[label_map][..., ::-1]
    drawn[known] = (0.5 * image[known] + 0.5 * bgr[known]).astype(np.uint8)
    line = max(1, round(max(image.shape[:2]) / 500))
    borders = np.zeros(label_map.shape, bool)
    borders[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    borders[1:] |= label_map[1:] != label_map[:-1]
    drawn[cv2.dilate(borders.astype(np.uint8), np.ones((line, line), np.uint8)) > 0] = 255
    places = []
    for label in np.unique(label_map[known]).tolist():
        mask = np.pad((label_map == label).astype(np.uint8), 1)  # the border of the picture is one of the region
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        if depth[row, column] >= NAMED * max(image.shape[:2]):
            places.append((int(column), int(row), names[label], tuple(colours[label].tolist())))
    return _labelled(drawn, places)


def _labelled(image, places):
    """Write texts (left, top, text, colour) over a picture, those of the last ones in front."""
    size = max(9, round(max(image.shape[:2]) / 60))
    canvas = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    draw = ImageDraw.Draw(canvas)
    for left, top, text, fill in places:
        if not text:
            continue
        font = _font(lettering.font(text), size)
        box = draw.textbbox((0, 0), text, font=font)
        wide, tall = box[2] + size // 2, box[3] + size // 4
        x = max(0, min(left, canvas.width - wide))
        y = max(0, top - tall)
        draw.rectangle((x, y, x + wide, y + tall), fill=fill)
        bright = sum(weight * part for weight, part in zip((0.3, 0.59, 0.11), fill, strict=True)) > 130
        draw.text((x + size // 4, y), text, font=font, fill="black" if bright else "white")
    return np.asarray(canvas)[..., ::-1]


@cache
def _font(path, size):
    return ImageFont.truetype(str(path), size)


def scaled(image, side, nearest=False):
    """A picture or mask whose longer side has `side` pixels."""
    factor = side / max(image.shape[:2])
    way = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    size = [max(1, round(length * factor)) for length in image.shape[1::-1]]
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=way)


def fitted(image, side):
    """A picture shrunk so that its longer side has at most `side` pixels."""
    return image if max(image.shape[:2]) <= side else scaled(image, side)


def jpeg(image):
    """The bytes of a picture, BGR, as JPEG."""
    return encoded(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def encoded(image, suffix, options=()):
    """The bytes of an image in the format of a suffix."""
    done, content = cv2.imencode(suffix, np.ascontiguousarray(image), list(options))
    if not done:
        raise ValueError(f"OpenCV cannot write {image.dtype} {image.shape} as {suffix}")
    return content.tobytes()


def inlined(image):
    """A picture for the `src` of a page that carries it inside."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(image)).decode()}"
