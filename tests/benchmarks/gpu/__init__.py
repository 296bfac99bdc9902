"""The project on a GPU: services, graphs, half precision, chains and training, each a part of one run."""
