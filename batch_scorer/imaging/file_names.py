"""Patient and cause of pneumonia as the files of the Kermany data set name them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_KERMANY_PATIENT = re.compile(r"^(person\d+)_(?:bacteria|virus)_|^((?:NORMAL\d*-)?IM-\d+)-")


ETIOLOGIES = ("bacterial", "viral")
"""Of pneumonia, as ``parse_etiology`` tells them; the second is the positive one."""


def parse_patient(key: str) -> str:
    """Read the patient from a file name of the Kermany set; empty where it names none.

    ``person12_virus_7.jpeg`` is of person12, ``NORMAL2-IM-0927-0001.jpeg`` of NORMAL2-IM-0927.
    """
    match = _KERMANY_PATIENT.match(PurePosixPath(key).name)
    return (match[1] or match[2]) if match else ""


def parse_etiology(key: str) -> str:
    """Read "bacterial" or "viral" from a Kermany file name; empty where there is none."""
    match = re.match(r"^person\d+_(bacteria|virus)_", PurePosixPath(key).name)
    return {"bacteria": "bacterial", "virus": "viral"}[match[1]] if match else ""
