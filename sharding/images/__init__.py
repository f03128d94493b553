"""From JPEG bytes to the pixels of a batch: decoders, crops, RandAugment, encoding."""
