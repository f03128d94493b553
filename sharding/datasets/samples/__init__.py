"""The builder of any labelled images: what a source gives is cut into the suite's editions and splits."""
