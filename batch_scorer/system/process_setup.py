"""Settings that belong to a whole process: the entry points of this program make them.

They are the command, the event handlers, and the worker processes for decoding and for Ray. A
program that imports this package keeps its own warning filters and log handlers.
"""

from __future__ import annotations

import ctypes
import logging
import warnings
from contextlib import suppress

CLOUD_LOGGERS = ("adlfs", "aiobotocore", "asyncio", "azure", "botocore", "gcsfs", "google", "s3fs")
"""Their errors become this program's own errors and retries."""


def configure_process() -> None:
    """Silence the libraries that decode images and read buckets; calling it again is harmless.

    They print what they find odd in a file, and may quote its header. This program judges a file
    by what it decodes to, and states that once, without what names a patient.
    """
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
    for name in ("PIL", *CLOUD_LOGGERS):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("pydicom", "pylibjpeg"):  # their import would set a level back
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
    _silence_libtiff()


def _silence_libtiff() -> None:
    """Keep libtiff, where Pillow links it, from writing to the terminal."""
    from PIL import _imaging

    with suppress(OSError, AttributeError):
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
