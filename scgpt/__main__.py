"""Run the command line: `python -m scgpt <verb>`."""

from __future__ import annotations

import sys

from scgpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
