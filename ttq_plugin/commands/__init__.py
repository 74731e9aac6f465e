"""What the command line's commands do, one module each; they wire the packages together and print."""
