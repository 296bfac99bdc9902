"""The contract between the service and the trainer. It imports nothing else of either.

    manifest.py             what a bundle holds: images, codes, operations, files
    measures.py             metrics of a model, and how closely it agrees with torch
    operations.py           graphs with inputs, outputs and parameters
    roles.py                the table of roles
    runner.py               fills the inputs of graphs by role, and runs operations in order
    noise.py                turns seeds into noise
    image_preprocessing.py  converts any picture to the pixels of a model
    cpu_count.py            counts the CPUs that the process may use

Nothing here knows HTTP, batching, torch or ONNX Runtime; the runner gets its graphs as arguments.
"""

__version__ = "0.1.0"
