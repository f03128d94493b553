"""Class vectors from the text tower of a CLIP model: zero-shot classification, and the start of a classifier."""
