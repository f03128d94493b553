"""Images that are decoded and augmented on the rank's device: `data.decoder=nvjpeg`."""
