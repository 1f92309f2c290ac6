"""Every predictor on networks it never saw: of families it never saw, and of families it did."""
