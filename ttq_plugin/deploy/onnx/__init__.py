"""Compressed models as ONNX graphs with float, two-bit or eight-bit weights."""
