"""Bring images of any size to the size of a network: the same pixels in every exported format."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Fit(nn.Module):
    """(B, C, H, W) uint8 images -> (B, C, size, size): resized, and the central square cut out.

    Bilinear with antialiasing, to the bit what torchvision's `Resize` and `CenterCrop` compute;
    but those decide in Python which side is the shorter, and `torch.export` would take the sizes
    of its example for all there are. Can be scripted, exported with free sizes, and written as
    ONNX.
    """

    def __init__(self, size: int) -> None:
        """``size`` of the shorter side, in pixels."""
        super().__init__()
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2], images.shape[3]
        # A traced graph has no branches: it resizes whatever comes, which changes nothing of an
        # image that has the size already.
        has_branches = torch.jit.is_scripting() or not torch.compiler.is_compiling()  # type: ignore[attr-defined]
        if has_branches and height == self.size and width == self.size:
            return images
        # TorchScript leaves unread what stands under `else`.
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            shorter = min(height, width)
            tall, wide = self.size * height // shorter, self.size * width // shorter
            resized = _interpolated(images, tall, wide)
        else:
            shorter = torch.sym_min(height, width)  # type: ignore[assignment]
            tall, wide = self.size * height // shorter, self.size * width // shorter
            resized = _resized(images, tall, wide)
        steps = torch.arange(self.size, device=images.device)
        cut = resized.index_select(2, steps + _margin(tall - self.size))
        return cut.index_select(3, steps + _margin(wide - self.size)).round().to(images.dtype)


def _resized(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`_interpolated`, or for ONNX the same as two products of matrices.

    onnxruntime's own antialiasing is off by up to 5e-5 grey levels, which tips one pixel in a
    thousand over a rounding; this, one in eight thousand, and none where the weights are exact
    (halving, say).
    """
    if not torch.onnx.is_in_onnx_export():
        return _interpolated(images, height, width)
    rows = resizing_matrix(images.shape[2], height)
    columns = resizing_matrix(images.shape[3], width)
    return rows @ (images.float() @ columns.T)


def _interpolated(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return functional.interpolate(
        images.float(), size=[height, width], mode="bilinear", antialias=True
    )


def resizing_matrix(n_in: int, n_out: int) -> torch.Tensor:
    """(n_out, n_in) float32 weights of a bilinear resize of one axis; each row sums to 1.

    A triangle about the centre of each output pixel, as wide as an input pixel, or as an output
    pixel where those are larger: torch's weights.
    """
    scale = torch.full((), n_in) / n_out
    centres = (torch.arange(n_out) + 0.5) * scale
    distances = (torch.arange(n_in) + 0.5 - centres.unsqueeze(1)).abs()
    weights = (1 - distances / scale.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def _margin(spare: int) -> int:
    """Half of ``spare`` pixels; of an odd number to the even side, as torchvision rounds."""
    return (spare + spare // 2 % 2) // 2
