"""The folder for `label-studio-ml start`; run, this prints where it is."""
