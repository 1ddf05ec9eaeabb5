"""`python -m regard.cli`, where the console script is not on the path."""

import sys

from regard.cli import main

sys.exit(main())
