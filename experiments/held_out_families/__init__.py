"""Every predictor on families of networks it never saw."""
