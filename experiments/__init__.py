"""What is proven: scripts that rerun with one command, from the quick start on."""
