"""Run the command line ``ttq`` as ``python -m ttq_plugin``."""

from ttq_plugin.cli import main

if __name__ == "__main__":
    main()
