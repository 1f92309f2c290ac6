"""A whole group of devices held out, each then adapted to from a few labels: on all own devices."""
