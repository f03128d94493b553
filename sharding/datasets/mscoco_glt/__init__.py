"""mscoco_glt: the long-tailed editions of COCO's objects."""
