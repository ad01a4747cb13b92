"""Learning: the starter's own recipe, losses, calibration. Pure except for reading labelled photos."""
