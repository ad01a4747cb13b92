"""The starter bundle: network on onnxruntime (ImageNet prior, linear probes, RAM-style head), export, installation."""
