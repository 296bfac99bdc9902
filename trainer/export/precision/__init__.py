"""Graphs in half precision: how they are made, and whether they agree with those in float32."""
