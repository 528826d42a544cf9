"""How much memory is free, how much a process has used at most, and that it gives back what it has used."""

import ctypes
import sys
from pathlib import Path

import torch

CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
"""Limit and use of a container, in bytes."""


def return_large_blocks() -> None:
    """Let this process return large tensors to Linux when it frees them, rather than keep their room for others."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):  # musl has none
        library.mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD: blocks of so many bytes or more are mapped apart


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    rows = [line.split() for line in read_system("/proc/meminfo").splitlines()]
    free = [int(row[1]) * 1024 for row in rows if row[0] == "MemAvailable:"]
    limit, used = (read_system(file).strip() for file in CGROUP)
    if limit.isdecimal() and used.isdecimal():
        free.append(max(int(limit) - int(used), 0))
    return min(free, default=None)


def read_system(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has used at any time; on a GPU, of its memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
