"""``python -m unetzoo`` is the command ``unetzoo``."""

import sys

from unetzoo.cli import main

sys.exit(main())
