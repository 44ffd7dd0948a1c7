"""`python -m pipeline`: the command `zmend` where its script is not on the PATH."""

from __future__ import annotations

from pipeline.cli import main

if __name__ == "__main__":
    main()
