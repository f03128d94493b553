"""imagenet_glt: the long-tailed editions of ILSVRC2012."""
