"""`python -m flatprobe`."""

from flatprobe.cli.app import main

if __name__ == "__main__":
    main()
