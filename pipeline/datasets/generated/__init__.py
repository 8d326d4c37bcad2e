"""The generated dataset: a COCO-format stand-in, drawn on the fly, small enough for two CPU cores.

Each image shows 4 to 6 objects over a dull textured background with unlabelled distractors. A category is a non-convex
silhouette, a texture and a pair of hues; objects are freely rotated, overlap, and fill about half of their box, so a
box alone is a bad mask. What base and novel objects share, and what a mask head can therefore transfer, is how a figure
stands out: a dark outline, saturated colours and full contrast.
"""
