"""What users read in MLflow's pages: names, descriptions, fronts side by side, and the landing view."""
