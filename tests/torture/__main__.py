"""Make the folder that the command line names."""

import sys
from pathlib import Path

from tests.torture.folder import make_folder

print(f"{len(make_folder(Path(sys.argv[1])))} files in {sys.argv[1]}")  # noqa: T201
