"""Fast inference on this machine, compared with the model that it runs."""
