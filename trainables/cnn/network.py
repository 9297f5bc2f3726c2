"""The convolutional network: backbone of blocks, global average pooling, linear head."""

from __future__ import annotations

import torch
from torch import nn

from trainables.cnn.config import CnnConfig


class Cnn(nn.Module):
    """(B, C, H, W) float32 images -> (B, n_classes) logits."""

    def __init__(self, config: CnnConfig, in_channels: int, n_classes: int) -> None:
        super().__init__()
        filters = [config.filters * 2**block for block in range(config.depth)]
        channels = [in_channels, *filters]
        self.backbone = nn.Sequential(
            *(
                conv_block(channels[block], channels[block + 1], config.dropout)
                for block in range(config.depth)
            )
        )
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(filters[-1], n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.backbone(images)  # (B, filters * 2**(depth-1), H / 2**depth, W / 2**depth)
        logits: torch.Tensor = self.head(self.neck(features))
        return logits


def conv_block(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """Convolution, batch normalization, ReLU, 2x2 max pool, dropout: halves height and width."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),  # its shift stands in for the convolution's bias
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(dropout),  # after the normalization, whose statistics it would distort
    )
