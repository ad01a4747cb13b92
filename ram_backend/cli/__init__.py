"""The `ram-backend` command: one module per noun; parse, call, print."""
