"""Pretrained tokenizers: a checkpoint of another project to a bundle that the service can serve.

command.py            python -m trainer import PATH
importer.py           read, recognise, build, load, publish
checkpoint_files.py   reads configs and tensors; nothing of a checkpoint is executed
families.py           the table: a row says all there is of a family of checkpoints
tensor_names.py       the tables of the names of tensors in those checkpoints
state_dict.py         fills a module with the tensors of a checkpoint, by name and shape
pretrained_model.py   an architecture as what the exporter publishes
finetuned_model.py    the same with a loss: trained further on other images
drawn_pictures.py     the pictures on which an import is compared with torch
architectures/        the networks, in the words of their papers
"""
