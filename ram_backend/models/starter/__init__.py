"""The embedded default's network: prior, probes and a RAM-shaped head on onnxruntime; its export and installation."""
