"""Networks of timm, torchvision and open_clip by name: building, forms, weights."""
