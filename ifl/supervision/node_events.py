"""What events about nodes say, for ranks, for the batch script (Python 3.6 and later) and for whoever shows them."""

DEVICE = "device"
"""The kind of a fault whose node has no device that can be used."""


def slow_text(factor: float, steps: int, **_: object) -> str:
    """Return the end of a sentence about a node that is slow."""
    return f"took {factor:g} times as long for an image as the others, over {steps} steps"
