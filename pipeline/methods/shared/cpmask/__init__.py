"""CPMask (ECCV 2020): boundary parsing and a supervised non-local block in the mask head, a file for each part.

boundary: targets. affinity: the non-local block and its loss. mask_head, roi_head: the network. detector: the
one that the authors' code has. knobs, parts: what its two methods, on the two-stage detector and on FCOS, share.
"""
