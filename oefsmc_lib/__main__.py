"""``python -m oefsmc_lib``: the command line where no ``oefsmc`` is on the path, as on a cluster's nodes."""

from oefsmc_lib.cli import main

main()
