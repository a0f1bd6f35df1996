"""Run the command line: `python -m scgpt <verb>`."""

from __future__ import annotations

import os
import sys

from scgpt.cli import main


def run() -> None:
    """Run a verb and end the process with its exit code."""
    code = main()
    if code:
        # Not sys.exit: HDF5 crashes in its clean-up after a file that it could not write.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    run()
