"""Compares compressed networks with full precision on the sensor tasks, with intervals over people."""
