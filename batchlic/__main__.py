"""`python -m batchlic`."""

from batchlic.cli import main

main()
