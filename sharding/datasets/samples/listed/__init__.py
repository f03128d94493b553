"""What a source holds, as arrays: its images in one order, their headers, and those that a build packs."""
