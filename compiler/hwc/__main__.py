"""``python -m hwc``: the command line, where no script is on the path."""

from hwc.cli.main import main

main()
