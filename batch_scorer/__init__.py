"""Score whole folders of chest X-rays for pneumonia on ONNX Runtime, and report on them.

For research and screening studies. Not a medical device.
"""

__version__ = "0.1.0"
