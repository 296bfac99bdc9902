"""The OpenAPI document: the description of every endpoint, and examples that the served models answer."""
