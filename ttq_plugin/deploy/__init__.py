"""Compressed models for use: packed files, faster inference, ONNX, C and MLflow models."""
