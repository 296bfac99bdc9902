"""Where the metrics of a run go: sums over the steps of an epoch, plots, TensorBoard, Weights & Biases."""
