"""For every test: torchvision's operators are declared before mmcv imports it, whichever module comes first."""

from pipeline import compat  # noqa: F401
