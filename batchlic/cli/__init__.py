"""The command line: one module a command group."""

import sys

if sys.platform == "win32":  # before a module imports fcntl, pwd or resource, which Windows lacks
    from batchlic.errors import NOT_ON_WINDOWS

    sys.stderr.write(f"batchlic: {NOT_ON_WINDOWS}\n")
    sys.exit(2)
