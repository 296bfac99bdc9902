"""What the service and the trainer share: how an exported model is run, and the noise that it is given.

runner.py      fills the inputs of graphs by role, and runs operations in order
noise.py       seeds to noise

Nothing here imports anything else of the service but the manifest. It knows neither HTTP nor batching,
neither torch nor ONNX Runtime: graphs are handed to it.
"""
