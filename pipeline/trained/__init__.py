"""Trained detectors: checkpoints of this project, released code and MMDetection, read, fitted, loaded, exported."""
