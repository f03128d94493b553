"""Fetches pretrained weights where there is internet: python -m ifl.pretrained."""
