"""Several processes on one machine's processors, for `d2o demo`; on GPUs and clusters, `torchrun -m d2o` does this."""

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeVar

import torch
from accelerate.state import AcceleratorState

from .run import Interrupted

Item = TypeVar("Item")
Result = TypeVar("Result")
PR_SET_PDEATHSIG = 1  # Linux: which signal a child gets when its parent dies


def in_processes(count: int, work: Callable[[], None]) -> None:
    """Call `work` in `count` processes that accelerate joins to one group, and wait for all of them.

    Small networks use two processes of one thread better than one of two threads. The processes are forked, so `work`
    may be any closure, but nothing may have used a GPU or several threads before. A ValueError, OSError or Interrupted
    of one process is raised here.
    """
    if count == 1 or not hasattr(os, "fork"):
        return work()
    fork = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reader, writer = fork.Pipe(duplex=False)
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        fork.Process(target=_child, args=(work, {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}, writer))
        for rank in range(count)
    ]
    for child in children:
        child.start()
    writer.close()
    _wait(children)
    codes = {child.exitcode or 0 for child in children}
    if codes == {0}:
        return None
    with suppress(EOFError):  # no process said why
        raise ValueError(reader.recv())
    if codes & {130, -signal.SIGINT, -signal.SIGTERM}:
        raise Interrupted
    raise RuntimeError(f"A training process ended with exit code {max(codes, key=abs)}.")


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], count: int) -> list[Result]:
    """Return `work(item)` for all items, each in a forked process of one thread; with `count` 1 one after another."""
    if count == 1 or not hasattr(os, "fork"):
        return [work(item) for item in items]
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in items]

    def answer(item: Item, writer: Connection) -> None:
        torch.set_num_threads(1)
        writer.send(work(item))

    children = [
        fork.Process(target=answer, args=(item, writer), daemon=True)
        for item, (_, writer) in zip(items, pipes, strict=True)
    ]
    for child, (_, writer) in zip(children, pipes, strict=True):
        child.start()
        writer.close()
    return [reader.recv() for reader, _ in pipes]


def _wait(children: list) -> None:
    """Wait for all children; pass SIGTERM on, and stop the others when one of them fails."""
    before = signal.signal(signal.SIGTERM, lambda *_: [child.terminate() for child in children])
    try:
        while any(child.is_alive() for child in children):
            try:
                for child in children:
                    child.join(0.1)
                if any(child.exitcode not in (None, 0, 130) for child in children):
                    for child in children:
                        child.terminate()
            except KeyboardInterrupt:  # the terminal has told the children, too: they are saving
                continue
    finally:
        signal.signal(signal.SIGTERM, before)


def _child(work: Callable[[], None], environment: dict[str, str], writer: Connection) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update({"GLOO_SOCKET_IFNAME": "lo", **environment} if sys.platform == "linux" else environment)
    threads = max(1, (os.cpu_count() or 1) // int(environment["WORLD_SIZE"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # or accelerate would give every process all cores
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent may have been a group of its own, of one
    code = 1
    try:
        work()
        code = 0
    except (Interrupted, KeyboardInterrupt):
        code = 130
    except (ValueError, OSError) as error:
        writer.send(str(error))
        code = 2
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if torch.distributed.is_initialized() and code == 0:
            torch.distributed.destroy_process_group()
        if code != 1:  # with 1 the traceback is still to be printed
            os._exit(code)
