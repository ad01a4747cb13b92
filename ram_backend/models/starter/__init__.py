"""The starter bundle: network on onnxruntime, export, installation."""
