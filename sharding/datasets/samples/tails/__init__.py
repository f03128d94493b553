"""Curves of a class tail, one a file, found by their names.

A curve is a file `tails/NAME.py` with two names:

    SAYS = "as in ..."                                             what it is, for help and messages
    def counts(largest: int, classes: int, ratio: float) -> list[int]

`counts` gives the images of each class, the most frequent first: the first is `largest`, the last `largest / ratio`,
truncated, none is above the one before, and none falls where `largest` grows. `long_tail=NAME:RATIO` chooses it.
"""
