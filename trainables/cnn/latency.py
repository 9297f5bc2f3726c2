"""How long a network takes for one image: of its layers, not of what they have learned."""

from __future__ import annotations

import statistics
import time

import torch

from trainables.cnn.architecture import Architecture
from trainables.cnn.build import Network
from trainables.contract import TrialContext

N_WARM_UP, N_CALLS = 5, 30


@torch.inference_mode()
def latency_ms(network: Architecture, trial: TrialContext) -> float:
    """Median milliseconds of a call with one image, on the trial's device and threads.

    Weights change nothing about it, so that a network too slow need not be trained. Tasks that run
    beside it do: the median passes over an interruption, not over a machine that is always busy.
    """
    torch.set_num_threads(trial.threads)
    with torch.random.fork_rng(devices=[]):  # first weights are random
        model = Network(network).to(trial.device).to(memory_format=torch.channels_last).eval()
    image = torch.zeros(1, *network.in_shape, device=trial.device)
    image = image.contiguous(memory_format=torch.channels_last)
    for _ in range(N_WARM_UP):
        _seconds_of_call(model, image)
    return 1000 * statistics.median(_seconds_of_call(model, image) for _ in range(N_CALLS))


def _seconds_of_call(model: Network, image: torch.Tensor) -> float:
    _wait_for(image)
    start = time.perf_counter()
    model(image)
    _wait_for(image)
    return time.perf_counter() - start


def _wait_for(image: torch.Tensor) -> None:
    """A GPU computes while Python goes on."""
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
