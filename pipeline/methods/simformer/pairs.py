"""Which image is the reference of which: lists by classes in common, and draws from them (section 6).

Legend: N training images, K classes. Images are positions in the data set. Numpy alone, so that nothing else is needed
to look at it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

EXACT_LIMIT, NOVEL_LIMIT, BASE_LIMIT = 500, 50, 50  # lengths of the released lists


@dataclass(frozen=True)
class Partners:
    """The lists of one image, ascending.

    Attributes:
        exact: {its novel class: images whose novel classes have that one alone in common with it}.
        novel: all other images, of an image with several novel classes; empty of others.
        base: images with a base class in common.
    """

    exact: dict[int, np.ndarray]
    novel: np.ndarray
    base: np.ndarray


class PairTable:
    """The partners of every image, found when they are asked for: the lists of 9,000 images need not be kept.

    Args:
        base, novel: [N, classes] bool each, the classes that each image shows, whole and not cropped.
        seed: of the sample that is left of a list over its limit.
        limits: of the lengths of the three lists; None for any.
        usable: [N] bool, images that may be a reference; None for all.
    """

    def __init__(self, base, novel, seed=0, limits=(EXACT_LIMIT, NOVEL_LIMIT, BASE_LIMIT), usable=None):
        self.base, self.novel = (np.ascontiguousarray(flags, dtype=bool) for flags in (base, novel))
        if len(self.base) != len(self.novel) or {self.base.ndim, self.novel.ndim} != {2}:
            raise ValueError(f"classes of base {self.base.shape} and novel {self.novel.shape} are not one table each")
        self.seed, self.limits = seed, limits
        self.usable = np.ones(len(self.base), dtype=bool) if usable is None else np.asarray(usable, dtype=bool)

    def __len__(self):
        return len(self.base)

    @cached_property
    def _numbers(self):
        """Flags as numbers that a matrix product is fast for."""
        return self.base.astype(np.float32), self.novel.astype(np.float32)

    def partners(self, image: int) -> Partners:
        """The lists of an image."""
        base, novel = self._numbers
        exactly_one = novel @ novel[image] == 1
        classes = np.flatnonzero(self.novel[image])
        others = ~exactly_one if len(classes) >= 2 else np.zeros(len(self), dtype=bool)
        most = self.limits or (None, None, None)
        return Partners(
            {int(label): self._listed(exactly_one & self.novel[:, label], most[0], image, label) for label in classes},
            self._listed(others, most[1], image, -1),
            self._listed(base @ base[image] >= 1, most[2], image, -2),
        )

    def _listed(self, flags, most, image, which):
        """Positions of flags; of too many a uniform sample, always the same one."""
        found = np.flatnonzero(flags & self.usable)
        if most is None or len(found) <= most:
            return found
        generator = np.random.default_rng([self.seed, image, which + 2])
        return np.sort(generator.choice(found, most, replace=False))

    def draw(self, image: int, rule: str, rare_share: float, generator: np.random.Generator) -> int:
        """The reference of an image; the image itself where no other one is to be had.

        Args:
            rule: as the knob `pair_draw`. `one_common`: an image with exactly one novel class in common; where there is
                none, as of an image without novel classes, one with a base class in common. `deconfounded`: the same,
                but of images with several novel classes alone, and where there is none the image itself.
            rare_share: probability that the novel class is the one with fewest partners; without any it counts as full.
            generator: decides.
        """
        if rule == "random":
            return _one_of(np.flatnonzero(self.usable), image, generator)
        if rule not in ("common_base", "novel_list", "deconfounded", "one_common"):
            raise ValueError(f"unknown rule {rule!r}")
        partners = self.partners(image)
        few = len(partners.exact) < (1 if rule == "one_common" else 2)
        if rule == "common_base" or few:
            return _one_of(partners.base, image, generator)
        if rule == "novel_list":
            return _one_of(partners.novel, image, generator)
        lists = [found[found != image] for found in partners.exact.values()]
        if rule == "one_common":
            lists = [found for found in lists if len(found)] or [partners.base]
        if generator.random() < rare_share:
            chosen = min(lists, key=lambda found: len(found) or EXACT_LIMIT)
        else:
            chosen = lists[generator.integers(len(lists))]
        return _one_of(chosen, image, generator)


def _one_of(candidates, image, generator):
    """One of some images, another one than that if there is one."""
    candidates = candidates[candidates != image]
    return int(candidates[generator.integers(len(candidates))]) if len(candidates) else int(image)
