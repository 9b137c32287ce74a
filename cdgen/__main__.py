"""`python -m cdgen`."""

from cdgen.cli import main

main()
