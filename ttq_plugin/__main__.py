"""``python -m ttq_plugin`` is ``ttq``."""

from ttq_plugin.cli import main

if __name__ == "__main__":
    main()
