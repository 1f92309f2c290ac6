"""Every stock torchvision classification network: predicted after adapting, and measured."""
