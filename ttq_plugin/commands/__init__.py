"""The commands of the command line, one module each; they connect the packages and print the results."""
