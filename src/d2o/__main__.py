"""`python -m d2o`: the command line, also for `torchrun -m d2o`."""

from .cli.main import main

main()
