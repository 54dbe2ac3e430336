"""`python -m unshard` is `unshard`."""

import sys

from unshard.cli.main import main

sys.exit(main())
