"""Models of the Hugging Face hub, named ``hf://owner/name@revision``."""

from service.models.hub.download import local_folder

__all__ = ["local_folder"]
