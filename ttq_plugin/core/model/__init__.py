"""Methods attached to the weight matrices of a model."""
