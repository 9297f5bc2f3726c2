"""Run by `export.py` in a process of its own: load a TorchScript file, compare it, print JSON.

Imports torch alone, as a machine would that only serves the model.
"""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import torch


def main() -> None:
    """``reload_check.py MODEL INPUTS``, where INPUTS holds "images" and "expected"."""
    model_path, inputs_path = sys.argv[1:]
    inputs = np.load(inputs_path)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = torch.jit.load(model_path)
        actual = model(torch.from_numpy(inputs["images"])).numpy()
    difference = float(np.abs(actual - inputs["expected"]).max())
    print(json.dumps({"max_difference": difference}))


if __name__ == "__main__":
    main()
