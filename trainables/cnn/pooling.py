"""Pools that torch does not have, or has only at random, and the spatial pyramid."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class FractionalMaxPool(nn.Module):
    """2x2 maxima whose windows are spread over the image in irregular steps.

    In training the steps are drawn anew for each batch; in use they are the middle ones, so that an
    answer depends on the image alone. Source: Graham 2014, arXiv:1412.6071, pseudo-random
    overlapping windows, with torch's formula for their places.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        across, down = 0.5, 0.5
        if self.training:
            drawn = torch.rand(2)
            down, across = float(drawn[0]), float(drawn[1])
        rows = self._starts(images.shape[2], down).to(images.device)
        columns = self._starts(images.shape[3], across).to(images.device)
        tall = torch.maximum(images.index_select(2, rows), images.index_select(2, rows + 1))
        return torch.maximum(tall.index_select(3, columns), tall.index_select(3, columns + 1))

    def _starts(self, size: int, offset: float) -> torch.Tensor:
        """First pixel of each window: the first window begins at 0, the last ends at ``size``."""
        n = max(1, int(size * self.ratio))
        starts: list[int] = []
        for index in range(n - 1):
            step = (size - 2) / (n - 1)
            starts.append(int((index + offset) * step) - int(offset * step))
        starts.append(size - 2)
        return torch.tensor(starts)


class MixedPool(nn.Module):
    """A learned mean of 2x2 maximum and average (Lee et al. 2016, arXiv:1509.08985)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # its sigmoid is the share of the maximum

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        share = torch.sigmoid(self.weight)
        maximum = functional.max_pool2d(images, 2)
        return share * maximum + (1 - share) * functional.avg_pool2d(images, 2)


class StochasticPool(nn.Module):
    """Picks one value of each 2x2 window, with a probability proportional to it.

    In use it takes the mean under these probabilities. Negative values are never picked unless
    there is nothing else. Source: Zeiler & Fergus 2013, arXiv:1301.3557.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n, c, h, w = images.shape[0], images.shape[1], images.shape[2] // 2, images.shape[3] // 2
        whole = images[:, :, : 2 * h, : 2 * w].reshape(n, c, h, 2, w, 2)
        windows = whole.permute(0, 1, 2, 4, 3, 5).reshape(n, c, h, w, 4)
        weights = windows.clamp(min=0)
        is_dead = weights.sum(dim=-1, keepdim=True) <= 0
        weights = torch.where(is_dead, torch.ones_like(weights), weights)
        probabilities = weights / weights.sum(dim=-1, keepdim=True)
        if not self.training:
            return (probabilities * windows).sum(dim=-1)
        drawn = torch.rand((n, c, h, w, 1), device=images.device)
        picked = (probabilities.cumsum(dim=-1) < drawn).sum(dim=-1, keepdim=True).clamp(max=3)
        return windows.gather(-1, picked).squeeze(-1)


class PyramidPool(nn.Module):
    """(B, C, H, W) -> (B, C (1 + 4 + 16 + ...)): maxima over ever finer bins (arXiv:1406.4729)."""

    def __init__(self, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.AdaptiveMaxPool2d(n) for n in bins])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        vectors: list[torch.Tensor] = []
        for level in self.levels:
            if torch.jit.is_scripting():  # type: ignore[attr-defined]
                vectors.append(level(images).flatten(1))
            else:  # which TorchScript leaves unread
                vectors.append(_pooled(level, images).flatten(1))
        return torch.cat(vectors, dim=1)


def _pooled(level: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What ``level`` computes; for ONNX, which has no adaptive maxima, bin by bin."""
    if torch.onnx.is_in_onnx_export():
        assert isinstance(level, nn.AdaptiveMaxPool2d)
        assert isinstance(level.output_size, int)
        return _maxima(images, level.output_size)
    pooled: torch.Tensor = level(images)
    return pooled


def _maxima(images: torch.Tensor, n: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, n, n): the maximum of each of n x n bins, as torch lays them."""
    rows, columns = _bins(images.shape[2], n), _bins(images.shape[3], n)
    return torch.stack(
        [
            torch.stack([images[:, :, row, column].amax((2, 3)) for column in columns], dim=-1)
            for row in rows
        ],
        dim=-2,
    )


def _bins(size: int, n: int) -> list[slice]:
    """From the floor of where a bin begins to the ceiling of where it ends: they may overlap."""
    return [slice(index * size // n, -(-(index + 1) * size // n)) for index in range(n)]
