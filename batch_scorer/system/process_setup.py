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
"""Loggers of cloud clients, whose errors this program reports or retries itself."""


def configure_process() -> None:
    """Silence the libraries that decode images and read buckets. Safe to call more than once.

    Their messages on odd files may quote a header, and with it a patient. This program judges a
    file by its decoded pixels, and reports each problem once, in its own words.
    """
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
    for name in ("PIL", *CLOUD_LOGGERS):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("pydicom", "pylibjpeg"):  # their import would reset a level
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
    _silence_libtiff()


def _silence_libtiff() -> None:
    """Keep libtiff, where Pillow links it, from writing to the terminal."""
    from PIL import _imaging

    with suppress(OSError, AttributeError):
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
