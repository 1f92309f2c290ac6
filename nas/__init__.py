"""Searching: spaces of networks, how accurate they become, and which of them keep a budget."""
