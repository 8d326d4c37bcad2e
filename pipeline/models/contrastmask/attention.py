"""Parameter-free self-attention over the cells of a RoI (released code only; the paper does not mention it)."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Features this close to zero have no direction; they attend to all cells alike.
ZERO_FEATURE = 1e-12


def enhance(features: Tensor) -> Tensor:
    """Replace each cell by the average of all cells of its RoI, weighted by the softmax of their cosine similarities.

    Fused attention never holds the R x (HW)^2 weights, so the number of RoIs does not decide the memory.

    Args:
        features: [R, C, H, W]. R = 0 is returned as it is.

    Returns:
        [R, C, H, W], same dtype.
    """
    if features.shape[0] == 0:
        return features
    # fused kernels want channels innermost; channels-last features are already so
    cells = features.flatten(2).transpose(1, 2).contiguous()[:, None]
    norms = torch.linalg.vector_norm(cells, dim=-1, keepdim=True)
    directions = cells / torch.where(norms > ZERO_FEATURE, norms, 1.0)
    averaged = F.scaled_dot_product_attention(directions, directions, cells, scale=1.0)
    return averaged[:, 0].transpose(1, 2).reshape(features.shape)
