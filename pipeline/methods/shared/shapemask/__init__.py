"""ShapeMask (Kuo et al., ICCV 2019): a shape prior, a coarse and a fine mask in an enlarged box, a file for each part.

geometry: functions on boxes and maps. batch_norm, roi_extractor, head, roi_head: the network. priors: the shapes that
it begins with, as stage `priors` left them. detector: the one that the authors' code has. knobs, parts: what its two
methods, on the two-stage detector and on RetinaNet, share.
"""
