"""python -m kernlb"""

from kernlb.cli import main

main()
