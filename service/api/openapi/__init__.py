"""The OpenAPI document: what every endpoint says of itself, and examples that the served models answer."""
