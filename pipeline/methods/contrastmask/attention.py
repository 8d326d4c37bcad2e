"""Parameter-free self-attention over the cells of a RoI (released code only; the paper does not mention it).

Legend: R RoIs, C channels, H and W cells, P = H * W.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Features this close to zero have no direction; they attend to all cells alike.
ZERO_FEATURE = 1e-12

# RoIs attended to at once: bounds what is held beside input and output, and is plenty for a GPU.
CHUNK = 16


def enhance(features: Tensor) -> Tensor:
    """Replace each cell by the average of all cells of its RoI, weighted by the softmax of their cosine similarities.

    Fused attention never holds the R x P x P weights, and what it does hold lives for `CHUNK` RoIs at a time and is
    recomputed in the backward pass. So the number of RoIs decides the size of input and output only.

    Args:
        features: [R, C, H, W], best in channels-last layout. R = 0 is returned as it is.

    Returns:
        [R, C, H, W], same dtype and layout.
    """
    return _Chunked.apply(features) if features.shape[0] else features


def _attend(features: Tensor) -> Tensor:
    # fused kernels want channels innermost; channels-last features are already so
    cells = features.flatten(2).transpose(1, 2).contiguous()[:, None]
    norms = torch.linalg.vector_norm(cells, dim=-1, keepdim=True)
    directions = cells / torch.where(norms > ZERO_FEATURE, norms, 1.0)
    averaged = F.scaled_dot_product_attention(directions, directions, cells, scale=1.0)
    return averaged[:, 0].transpose(1, 2).unflatten(2, features.shape[2:])


class _Chunked(torch.autograd.Function):
    """Apply `_attend` to groups of RoIs and keep nothing but the input for the backward pass."""

    @staticmethod
    def forward(ctx, features):
        device = features.device.type
        ctx.save_for_backward(features)
        ctx.precision = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }
        out = torch.empty_like(features)
        for source, target in zip(features.split(CHUNK), out.split(CHUNK), strict=True):
            target.copy_(_attend(source))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (features,) = ctx.saved_tensors
        grad_features = torch.empty_like(features)
        for source, upstream, target in zip(*(t.split(CHUNK) for t in (features, grad, grad_features)), strict=True):
            with torch.enable_grad(), torch.autocast(**ctx.precision):
                source = source.detach().requires_grad_()
                out = _attend(source)
            target.copy_(torch.autograd.grad(out, source, upstream.to(out.dtype))[0])
        return grad_features
