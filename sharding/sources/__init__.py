"""Reads labelled images in the forms in which people have them: one file a format, found by its place here."""
