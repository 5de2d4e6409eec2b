"""`python -m celo2.cli`, where the script `celo2` is not on the path."""

from celo2.cli.main import main

main()
