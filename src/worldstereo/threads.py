"""A number of CPU threads that does not depend on the machine.

How many threads share a convolution or a sum decides its last bits, and with them single pixels of the frames by one
level of 255. With one number everywhere a world has the same bytes on machines of any number of cores, in one process
among many, and after a resume with another `OMP_NUM_THREADS`; only other processors' instruction sets still differ.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

THREADS = 4
"""Few enough to cost little on 2 cores: the default run of the baseline takes 35 s there, and took 32 s with 2."""


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Compute with `THREADS` threads of torch, as many as it had before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
