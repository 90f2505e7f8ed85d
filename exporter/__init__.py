"""Turn a trained network into an ONNX file that describes and tests itself."""
