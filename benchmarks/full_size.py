"""Every preset of the paper at full architecture size, with random weights: first as shapes, then two real steps.

python benchmarks/full_size.py                       all of them, each in a process of its own; hours on a small CPU
python benchmarks/full_size.py cifar10-d2o-f         some
python benchmarks/full_size.py --meta                shapes only; a few minutes
"""

import argparse
import resource
import subprocess
import sys
import time

from d2o.training.rehearsal import PRESETS, rehearse

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PRESET", help=", ".join(PRESETS))
    parser.add_argument("--meta", action="store_true")
    options = parser.parse_args()
    if len(options.names) != 1:
        extra = ["--meta"] if options.meta else []
        codes = [
            subprocess.run([sys.executable, __file__, name, *extra], check=False).returncode
            for name in options.names or PRESETS
        ]
        sys.exit(max(codes))
    (name,) = options.names
    began = time.monotonic()
    shapes = rehearse(name)
    assert shapes.operations is not None
    print(
        f"{name}: {shapes.share}; discriminator {shapes.discriminator:,}; turns {', '.join(shapes.turns)}; "
        f"{shapes.operations / 1e9:.0f} G operations an image",
        flush=True,
    )
    if not options.meta:
        found = rehearse(name, "cpu")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        losses = ", ".join(f"{turn} {value:.3g}" for turn, value in found.losses.items())
        print(f"  two steps of batch 2 in {time.monotonic() - began:.0f} s, {memory:.1f} GiB: {losses}", flush=True)
