"""`python -m d2o`: the command line, also for `torchrun -m d2o`."""

from d2o.cli.main import main

main()
