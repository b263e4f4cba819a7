"""`python -m flatprobe`."""

from flatprobe.cli import main

if __name__ == "__main__":
    main()
