"""python -m batch_scorer: the same as cxr."""

from batch_scorer.entry import main

main()
