"""What the launcher knows of the networks of timm and torchvision, without importing them."""
