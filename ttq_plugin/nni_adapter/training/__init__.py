"""Training through NNI's evaluators: parameter groups, checkpoints, epochs and calibration."""
