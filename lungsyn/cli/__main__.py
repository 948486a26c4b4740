"""`python -m lungsyn.cli`: the command where it is not on the path."""

import sys

from lungsyn.cli import main

sys.exit(main())
