"""Networks of timm and torchvision by name: building, forms, weights."""
