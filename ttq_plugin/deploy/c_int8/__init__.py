"""Integer networks as self-contained C99 without floating point, for processors that have none."""
