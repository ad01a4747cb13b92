"""The folder that `label-studio-ml start` takes; this module, run, prints where it is."""
