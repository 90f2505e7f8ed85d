"""Folders that tests read from."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "examples" / "xrays"
REAL_DATA = Path(os.environ.get("CXR_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
