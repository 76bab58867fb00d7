"""Run the command line as ``python -m oarseg.cli``."""

import sys

from oarseg.cli.main import main

sys.exit(main())
