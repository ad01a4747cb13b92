"""The folder that `label-studio-ml start` takes; `python -m ram_backend.server.stock_host` prints where it is."""
