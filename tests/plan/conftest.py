"""Lets the tests here import what they share."""

from __future__ import annotations

import sys
from pathlib import Path

# The import mode of the suite leaves test folders off the path.
sys.path.insert(0, str(Path(__file__).parent))
