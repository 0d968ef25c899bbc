"""`python -m llama_fp4` is `llama-fp4`."""

import sys

from llama_fp4.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
