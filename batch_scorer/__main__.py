"""python -m batch_scorer: the same as cxr."""

from batch_scorer.cli.entry import main

main()
