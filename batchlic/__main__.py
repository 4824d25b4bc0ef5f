"""`python -m batchlic`."""

from batchlic.cli.start import main

main()
