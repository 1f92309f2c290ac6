"""How fast files are read and costs predicted."""
