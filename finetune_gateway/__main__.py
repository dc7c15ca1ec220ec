"""``python -m finetune_gateway`` is ``ftg``."""

import sys

from finetune_gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())
