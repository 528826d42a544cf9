"""The `d2o` command: a table of commands, each in a module of its own that is imported only when it is used."""

import atexit
import difflib
import errno
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import d2o
from d2o.errors import is_out_of_memory, printable

from .progress import print_log
from .streams import Undelivered, guard_streams

COMMANDS = {
    "demo": "Train a one-step generator of emoji, digits or shapes in minutes, and compare it with its teacher.",
    "pretrain": "Train a diffusion model on your images.",
    "finetune": "Turn a diffusion model into a one-step generator (D2O, D2O-F).",
    "encode": "Encode images and captions once, to train a latent model without its encoders.",
    "emoji": "Write captioned pictures of emoji, from npm packages, to train on.",
    "sample": "Make images from a model.",
    "evaluate": "Measure distances between images or models, and their diversity.",
    "statistics": "Store the statistics of a data set, to use in evaluate instead of the images.",
    "analyze": "See why it works: spectra, blocks, local minima.",
    "inspect": "Describe a checkpoint, without running it or reading its weights.",
    "convert": "Convert any checkpoint that d2o reads to one safetensors file.",
    "export": "Export a one-step generator: safetensors, diffusers, ONNX, torch, web page.",
    "push": "Upload an export with its model card to the Hugging Face hub.",
    "plan": "Suggest settings for your images, this machine and your time, as commands to paste.",
    "estimate": "Estimate what a run needs here: images a second, hours, memory, disk.",
    "app": "Serve an interactive page: an image in one call as you move a slider, beside its teacher.",
    "serve": "Serve images over HTTP.",
    "recipes": "List the named recipes, or show one.",
}
GONE = {
    "bench": "run python benchmarks/steps.py or generation.py in d2o's folder",
    "completion": "d2o --tyro-print-completion bash (or zsh, fish, tcsh) prints it",
}
"""Commands of earlier versions, and what took their place."""
COMPLETION = "--tyro-print-completion"
INTERRUPTED = 130  # the shell's code for Ctrl-C
UNREAD = 141  # and for output that nobody reads on: SIGPIPE


def usage() -> str:
    rows = "\n".join(f"  {name:<10} {sentence}" for name, sentence in COMMANDS.items())
    return f"""usage: d2o [--import FILE_OR_MODULE] COMMAND [OPTIONS]

From a pre-trained diffusion model to a one-step generator.

commands:
{rows}

options of every command:
  --import   Your own Python file or module that adds networks, objectives, recipes; may be repeated.

examples:
  d2o demo
  d2o finetune --from teacher.safetensors --data images.zip --recipe d2o-f --out runs/one-step

`d2o COMMAND --help` shows the options of a command, `d2o --version` the version.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 2 bad input (one sentence says what and how to mend it), 130 interrupted."""
    guard_streams()
    codes: list[int] = []
    atexit.register(lambda: codes and leave(codes[0]))  # the first that is registered is the last that is called
    codes.append(run(list(sys.argv[1:] if arguments is None else arguments)))
    sys.exit(codes[0])


def leave(code: int) -> None:
    """End the process when all others have cleaned up; freeing torch's modules one by one takes a tenth of a second."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(arguments: list[str]) -> int:
    try:
        try:
            return run_command(arguments)
        finally:
            sys.stdout.flush()
    except Undelivered as error:  # `d2o recipes | head`: the reader has seen enough
        return UNREAD if error.errno == errno.EPIPE else complain(str(error.strerror))
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'Stopped.'}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        sentence = explain(error)
        if os.environ.get("D2O_TRACEBACK") or sentence is None:
            raise
        return complain(sentence)


def explain(error: Exception) -> str | None:
    """Return the sentence of an error that is an answer, not a mistake of d2o's."""
    if isinstance(error, ValueError | OSError):
        return str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ")
    if is_out_of_memory(error):
        return "out of memory: process fewer images at once, with a smaller --micro-batch or --batch."
    plugins = sys.modules.get("d2o.cli.plugins")
    return plugins and plugins.blame(error)


def run_command(arguments: list[str]) -> int:
    print_log()
    if "d2o.cli.plugins" in sys.modules or any(word.startswith("--import") for word in arguments):
        arguments = import_module("d2o.cli.plugins").import_all(arguments)
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help", "--version"):
        print(f"d2o {d2o.__version__}\n" if name == "--version" else usage(), end="")
        return 0
    if name in GONE:
        raise ValueError(f"the command {name!r} no longer exists: {GONE[name]}.")
    if name not in (*COMMANDS, COMPLETION):
        close = difflib.get_close_matches(name, COMMANDS, 1)
        remedy = f"did you mean {close[0]}?" if close else "see d2o --help."
        raise ValueError(f"there is no command {name!r}: {remedy}")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks Linux for huge pages, which training fills sooner
    if name == COMPLETION:
        import_module("d2o.cli.completion").print_completion(arguments)
    else:
        load_command(name).main(rest)
    return 0


def load_command(name: str):
    """Import a command's module without looking for garbage in it, a fifth of the time of a short command."""
    gc.disable()
    try:
        return import_module(f"d2o.cli.commands.{name}")
    finally:
        gc.freeze()  # what is imported stays
        gc.enable()


def complain(sentence: str) -> int:
    print(f"d2o: {printable(sentence)}", file=sys.stderr)
    return 2
