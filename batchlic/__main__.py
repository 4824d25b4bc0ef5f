"""`python -m batchlic`."""

from batchlic.cli.run import main

main()
