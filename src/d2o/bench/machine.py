"""The machine: what it is, what it could do, and how much memory work takes on it."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

SIDE = 1024
"""Of the square matrices whose product shows what the machine can do."""


def describe() -> dict[str, Any]:
    """Return what a reader of the figures wants to know."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak(seconds: float = 1.0) -> float:
    """Return the floating-point operations a second of the best of many products of float32 matrices."""
    a, b = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    best, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop:
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


def resident(field: str) -> int:
    """Return a field of this process's memory in bytes: VmRSS is now, VmHWM the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"This system does not tell {field}.")
