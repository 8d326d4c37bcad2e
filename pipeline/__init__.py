"""Reproduction of ContrastMask (CVPR 2022): partially supervised instance segmentation."""
