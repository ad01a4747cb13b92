"""Regions: tags to points, boxes and masks in the image."""
