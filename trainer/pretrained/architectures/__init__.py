"""The networks of pretrained tokenizers, each in a module of its own with the config of its family."""
