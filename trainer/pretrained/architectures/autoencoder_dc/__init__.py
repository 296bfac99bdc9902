"""DC-AE, the deep compression autoencoder (2410.10733).

network.py    its config, encoder and decoder
blocks.py     residual blocks, linear attention, and changes of resolution with their shortcuts
"""
