"""What every layer of the house uses: files, names, limits, processes and progress; no framework."""
