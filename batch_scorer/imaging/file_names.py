"""Patient and cause of pneumonia from the file names of the Kermany data set."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_KERMANY_PATIENT = re.compile(r"^(person\d+)_(?:bacteria|virus)_|^((?:NORMAL\d*-)?IM-\d+)-")
ETIOLOGIES = ("bacterial", "viral")
"""The causes that ``parse_etiology`` returns; the second is the positive class."""


def parse_patient(key: str) -> str:
    """Parse the patient from a Kermany file name; empty if there is none.

    ``person12_virus_7.jpeg`` gives person12, ``NORMAL2-IM-0927-0001.jpeg`` gives NORMAL2-IM-0927.
    """
    match = _KERMANY_PATIENT.match(PurePosixPath(key).name)
    return (match[1] or match[2]) if match else ""


def parse_etiology(key: str) -> str:
    """Parse "bacterial" or "viral" from a Kermany file name; empty if there is none."""
    match = re.match(r"^person\d+_(bacteria|virus)_", PurePosixPath(key).name)
    return {"bacteria": "bacterial", "virus": "viral"}[match[1]] if match else ""
