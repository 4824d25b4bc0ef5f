"""`python -m batchlic`."""

from batchlic.cli.app import main

main()
