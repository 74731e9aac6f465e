"""What a person reads in MLflow's own pages: names, descriptions, fronts side by side, and where a page begins."""
